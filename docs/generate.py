"""Writes the parts of the reference that come from the code: python -m docs.generate."""

import tempfile
import types
import typing
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from gigawatch import database, settings
from gigawatch.embedded import EmbeddedServer
from migrations.run import migrate

HERE = Path(__file__).parent
MARK = "<!-- what follows is generated: make docs -->\n"


def configuration() -> str:
    """docs/configuration.md."""
    lines = [
        "# Configuration",
        "",
        "Settings come from a file, from the environment, and from flags, in this order of rising rank. The file is",
        "the one that `--config` or `GIGAWATCH_CONFIG` names, else `gigawatch.toml` in the working directory, else",
        "`/etc/gigawatch/gigawatch.toml`. Unknown sections and keys are errors.",
        "",
        "```toml",
        "[agent]",
        'site = "paris"',
        'rack = "r12"',
        'server_url = "https://gigawatch.example"',
        'token_file = "/etc/gigawatch/agent.token"',
        "```",
        "",
        MARK.rstrip(),
    ]
    for section in msgspec.structs.fields(settings.Settings):
        kind = section.type
        lines += ["", f"## [{section.name}]", "", (kind.__doc__ or "").strip(), ""]
        lines += ["| key | environment | type | default |", "| --- | --- | --- | --- |"]
        for field in msgspec.structs.fields(kind):
            default = field.default if field.default is not msgspec.NODEFAULT else None
            shown = "by platform" if field.name == "data_dir" else "–" if default is None else f"`{default}`"
            variable = f"GIGAWATCH_{section.name}__{field.name}".upper()
            lines.append(f"| `{field.name}` | `{variable}` | {_type(field.type)} | {shown} |")
    lines += [
        "",
        "`data_dir` is `/var/lib/gigawatch` for root and the user's data directory for others.",
        "",
    ]
    return "\n".join(lines)


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        base, *metas = typing.get_args(hint)
        bounds = [
            f"{sign} {getattr(meta, name):g}"
            for meta in metas
            for sign, name in (("≥", "ge"), (">", "gt"), ("≤", "le"), ("<", "lt"))
            if getattr(meta, name, None) is not None
        ]
        return " ".join([_type(base), ", ".join(bounds)]).strip()
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        return " or ".join(_type(it) for it in typing.get_args(hint) if it is not type(None))
    return "table of names" if typing.get_origin(hint) is dict else hint.__name__


def views(connection: Connection) -> str:
    """The generated part of docs/sql.md."""
    lines = [MARK]
    found = connection.execute(
        text("""
        SELECT relname, obj_description(oid, 'pg_class') FROM pg_class
        WHERE relnamespace = 'report'::regnamespace AND relkind = 'v' ORDER BY relname""")
    ).all()
    for name, comment in found:
        lines += [f"### report.{name}", "", f"{comment}.", "", "| column | type | meaning |", "| --- | --- | --- |"]
        columns = connection.execute(
            text("""
                SELECT attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum)
                FROM pg_attribute WHERE attrelid = CAST(:name AS regclass) AND attnum > 0 ORDER BY attnum"""),
            {"name": f"report.{name}"},
        )
        lines += [f"| `{column}` | {kind} | {meaning} |" for column, kind, meaning in columns]
        lines.append("")
    functions = connection.execute(
        text("""
        SELECT proname, pg_get_function_arguments(oid), pg_get_function_result(oid), obj_description(oid, 'pg_proc')
        FROM pg_proc WHERE pronamespace = 'report'::regnamespace ORDER BY proname""")
    ).all()
    for name, arguments, result, comment in functions:
        lines += [f"### report.{name}()", "", f"{comment}.", "", f"```\n{name}({arguments})\nreturns {result}\n```", ""]
    return "\n".join(lines)


def main() -> None:
    """Write the files."""
    (HERE / "configuration.md").write_text(configuration(), encoding="utf-8")
    folder = Path(tempfile.mkdtemp(prefix="gigawatch-docs-"))
    with EmbeddedServer(folder) as server:
        engine = database.engine(server.url)
        migrate(engine)
        with engine.connect() as connection:
            reference = views(connection)
        engine.dispose()
    path = HERE / "sql.md"
    path.write_text(path.read_text(encoding="utf-8").partition(MARK)[0] + reference, encoding="utf-8")


if __name__ == "__main__":
    main()
