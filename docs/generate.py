"""Writes the parts of the reference that come from the code: python -m docs.generate."""

import ast
import re
import tempfile
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, text

from api.alerts import files as rules
from collector.engines import catalogue
from collector.meters import maps
from gigawatch import database, settings
from gigawatch.alerts.notification import SEVERITIES
from gigawatch.embedded import EmbeddedServer
from migrations.run import migrate, view_files

HERE = Path(__file__).parent
MARK = "<!-- what follows is generated: make docs -->\n"
# Keys that say what they are by their name alone in gigawatch/settings.py, in words for the reference.
MEANINGS = {
    "store.pool_size": "Connections to the database that each process keeps; as many again may be opened for a moment.",
    "agent.server_url": "Address of the API.",
    "agent.token": "Token of role agent. `token_file` is safer, and goes before it.",
    "agent.token_file": "File that holds the token on its only line.",
    "agent.site": "Name of the site that this node is in.",
    "agent.rack": "Name of the rack that this node is in.",
    "agent.labels": 'Labels of this node, as a table: `labels = {team = "llm"}`.',
    "agent.tick_s": "Interval of the readings, s.",
    "agent.window_s": f"Length of a window, s: one of {', '.join(map(str, settings.WINDOW_LENGTHS_S))}.",
    "agent.spool_max_mib": "Greatest size of the batches that wait, MiB; beyond it the oldest are dropped.",
    "agent.spool_max_age_h": "Greatest age of a batch that waits, h; older ones are dropped.",
    "server.host": "Address to listen on.",
    "server.port": "Port to listen on.",
    "server.workers": "Processes that serve.",
    "relay.host": "Address to listen on.",
    "relay.port": "Port to listen on.",
    "relay.spool_max_mib": "Greatest size of the batches that wait, MiB; beyond it the oldest are dropped.",
    "relay.spool_max_age_h": "Greatest age of a batch that waits, h; older ones are dropped.",
    "dashboard.host": "Address to listen on.",
    "dashboard.port": "Port to listen on.",
    "dashboard.refresh_s": "How often pages ask for new figures, s.",
}


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
    explained = {**MEANINGS, **_docstrings()}
    for section in msgspec.structs.fields(settings.Settings):
        kind, many = _kind(section.type)
        title = f"[[{section.name}]]" if many else f"[{section.name}]"
        lines += ["", f"## {title}", "", (kind.__doc__ or "").strip(), ""]
        lines += ["| key | environment | type | default | meaning |", "| --- | --- | --- | --- | --- |"]
        for field in msgspec.structs.fields(kind):
            default = field.default if field.default is not msgspec.NODEFAULT else None
            shown = "by platform" if field.name == "data_dir" else "–" if default is None else f"`{_toml(default)}`"
            if field.required:
                shown = "must be set"
            shape = _type(field.type)
            in_file_only = many or shape == TABLE or shape.startswith("list")
            variable = "in the file only" if in_file_only else f"`GIGAWATCH_{section.name}__{field.name}`".upper()
            meaning = explained[f"{section.name}.{field.name}"]
            lines.append(f"| `{field.name}` | {variable} | {shape} | {shown} | {meaning} |")
    lines += [
        "",
        "`data_dir` is `/var/lib/gigawatch` for root and the user's data directory for others. Some keys have a",
        "flag as well: `gigawatch VERB --help` lists them.",
        "",
    ]
    return "\n".join(lines)


def _kind(section: Any) -> tuple[Any, bool]:
    """The type that holds a section's keys, and whether there may be many of it."""
    many = typing.get_origin(section) is tuple
    return (typing.get_args(section)[0] if many else section), many


def _docstrings() -> dict[str, str]:
    """Meaning by "section.key": the string below each field in gigawatch/settings.py."""
    tree = ast.parse(Path(settings.__file__).read_text(encoding="utf-8"))
    sections = {_kind(field.type)[0].__name__: field.name for field in msgspec.structs.fields(settings.Settings)}
    found = {}
    for kind in tree.body:
        if not isinstance(kind, ast.ClassDef) or kind.name not in sections:
            continue
        for field, below in zip(kind.body, kind.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                match below:
                    case ast.Expr(value=ast.Constant(value=str(words))):
                        found[f"{sections[kind.name]}.{field.target.id}"] = " ".join(words.split())
    return found


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(list(value) if isinstance(value, tuple) else value)


TABLE = "table of names"


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        base, *metas = typing.get_args(hint)
        bounds = [
            f"{sign} {getattr(meta, name):.15g}"
            for meta in metas
            for sign, name in (("≥", "ge"), (">", "gt"), ("≤", "le"), ("<", "lt"))
            if getattr(meta, name, None) is not None
        ]
        return " ".join([_type(base), ", ".join(bounds)]).strip()
    if typing.get_origin(hint) is tuple:
        return f"list of {_type(typing.get_args(hint)[0])}"
    if typing.get_origin(hint) is Literal:
        return " or ".join(f"`{it}`" for it in typing.get_args(hint))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f"`{it.value}`" for it in hint)
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        return " or ".join(_type(it) for it in typing.get_args(hint) if it is not type(None))
    return TABLE if typing.get_origin(hint) is dict else NAMES[hint]


NAMES = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}


def engines() -> str:
    """The generated part of docs/engines.md."""
    lines = [MARK]
    for name, engine in catalogue.engines().items():
        model = f"label {' or '.join(f'`{it}`' for it in engine.model_labels)}" if engine.model_labels else "not named"
        lines += [
            f"### {name}: {engine.title}",
            "",
            f"Names of {engine.versions}, at `http://HOST:{engine.port}{engine.path}`.",
            f"Read in: {', '.join(f'<{source}>' for source in engine.sources)}.",
            f"Model: {model}. Counted once: {_names(engine.repeated_by)}. Added up: {_names(engine.split_by)}.",
            "",
            *(f"- {note}" for note in engine.notes),
            "",
            "| figure | series, the first that is served |",
            "| --- | --- |",
        ]
        for figure, sources in engine.figures.each():
            lines.append(f"| {figure.replace('_', ' ')} | {'<br>'.join(map(_source, sources)) or '–'} |")
        lines.append("")
    return "\n".join(lines)


def _names(labels: tuple[str, ...]) -> str:
    return ", ".join(f"`{label}`" for label in labels) or "none"


def _source(source: catalogue.Source) -> str:
    labels = ", ".join(f'{label}="{"|".join(values)}"' for label, values in source.labels.items())
    name = f"`{source.metric}{f'{{{labels}}}' if labels else ''}`".replace("|", "\\|")
    return name + (f", {source.unit}" if source.unit else "") + (", counted at the end" if source.at_end else "")


def meters() -> str:
    """The generated part of docs/meters.md."""
    lines = [MARK]
    for name, map_ in maps.maps().items():
        lines += [
            f"### {name}: {map_.title}",
            "",
            f"Driver `{map_.__struct_config__.tag}`. Read in: {'; '.join(map_.sources)}.",
            "",
            *(f"- `index.{word}`: {it.about}{_default(it.default)}" for word, it in map_.index.items()),
            *(f"- {note}" for note in map_.notes),
            "",
            "| figure | where it is read |",
            "| --- | --- |",
            *(f"| {figure} | {'<br>'.join(map(_place, values))} |" for figure, values in map_.readings.items()),
            "",
        ]
    return "\n".join(lines)


def alerts() -> str:
    """The generated part of docs/alerts.md: the shipped rules."""
    lines = [
        MARK.rstrip(),
        "",
        "| rule | what it is about | severity | for | thresholds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for it in rules.shipped().values():
        severities = [its for its in SEVERITIES if its == it.severity or f"'{its}'" in it.sql]
        thresholds = "; ".join(
            f"`{name}` {limit.value:g}{f' {limit.unit}' if limit.unit != '1' else ''}: {limit.about}"
            for name, limit in it.thresholds.items()
        )
        name = f"[{it.name}](runbooks/{it.name}.md)"
        lines.append(f"| {name} | {it.about} | {', '.join(severities)} | {_duration(it.for_s)} | {thresholds or '–'} |")
    return "\n".join([*lines, ""])


def _duration(seconds: int) -> str:
    parts = [(seconds // 3600, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "at once"


def _default(value: int | str | None) -> str:
    return "; to be given" if value is None else f"; {value} where it is not given"


def _place(value: maps.Value) -> str:
    """The keys of a value that its file gives, as the file has them."""
    fields = {field.name: field.default for field in msgspec.structs.fields(value)}
    given = {key: it for key, it in msgspec.structs.asdict(value).items() if it != fields[key]}
    return ", ".join(f"{key} `{_shown(it)}`" for key, it in given.items())


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f'{key}="{it}"' for key, it in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def views(connection: Connection) -> str:
    """The generated part of docs/sql.md."""
    lines = [MARK]
    found = connection.execute(
        text("""
        SELECT relname, obj_description(oid, 'pg_class') FROM pg_class
        WHERE relnamespace = 'report'::regnamespace AND relkind = 'v' ORDER BY relname""")
    ).all()
    headers = _headers()
    for name, comment in found:
        lines += [f"### report.{name}", "", f"{comment}.", "", *headers[name]]
        lines += ["| column | type | meaning |", "| --- | --- | --- |"]
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
        lines += [f"### report.{name}()", "", f"{comment}.", "", *headers[name]]
        lines += ["```", f"report.{name}({_one_a_line(arguments)})", f"returns {_table(result)}", "```", ""]
    return "\n".join(lines)


def _headers() -> dict[str, list[str]]:
    """By view or function: what the head of its file says of definition, unit and missing data."""
    found = {}
    for sql in view_files().values():
        head = [line.removeprefix("--").strip() for line in sql.split("\nCREATE ", 1)[0].splitlines()]
        said: list[str] = []
        for line in head:
            if line.startswith(("Definition:", "Missing data:")):
                said += [line, ""]
            elif line.startswith("needs:"):
                break
            elif said:
                said[-2] += f" {line}"
        for name in re.findall(r"^CREATE (?:VIEW|FUNCTION) report\.(\w+)", sql, re.MULTILINE):
            found[name] = said
    return found


def _table(result: str) -> str:
    columns = re.fullmatch(r"TABLE\((.*)\)", result)
    return f"TABLE ({_one_a_line(columns[1])})" if columns else result


def _one_a_line(fields: str) -> str:
    """A list of fields, one on each line where there is more than one, without the types of their defaults."""
    parts = re.sub(r"(DEFAULT (?:'[^']*'|NULL))::\w+", r"\1", fields).split(", ")
    return fields if len(parts) == 1 else "\n    " + ",\n    ".join(parts) + "\n"


def main() -> None:
    """Write the files."""
    (HERE / "configuration.md").write_text(configuration(), encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="gigawatch-docs-", ignore_cleanup_errors=True) as folder:
        # The database's user must pass where this runs as root.
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder) / "data") as server:
            engine = database.engine(server.url)
            migrate(engine)
            with engine.connect() as connection:
                reference = views(connection)
            engine.dispose()
    for name, part in (
        ("sql.md", reference),
        ("engines.md", engines()),
        ("meters.md", meters()),
        ("alerts.md", alerts()),
    ):
        path = HERE / name
        path.write_text(path.read_text(encoding="utf-8").partition(MARK)[0] + part, encoding="utf-8")


if __name__ == "__main__":
    main()
