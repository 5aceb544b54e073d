"""Nodes as the types of a document, with all that is wrong told at once, each with its line.

What a value means is said by its place, never by its looks: a rack `01`, a row `on` and a host `1e3` are the names as
they are written. Where a document takes anything, as the columns of a table do, the looks decide, as in JSON.
"""

import math
import re
from collections.abc import Mapping as Mapped
from datetime import UTC, datetime, timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from api.declared import nodes
from api.declared.nodes import Form, Items, Mapping, Node, Scalar, Unreadable
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.findings import Finding, Findings, Path, suggestion

T = TypeVar("T", bound=Struct)
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_NOTHING = object()


class Unfit(GigawatchError):
    """A document that cannot come into force.

    Args:
        findings: what is wrong, errors and warnings.
        form: what kind of document it is.
    """

    def __init__(self, findings: list[Finding], form: Form) -> None:
        self.findings = findings
        errors = [it for it in findings if it.severity == "error"]
        super().__init__(
            "\n".join(said(it) for it in errors),
            f"{len(errors)} error{'s' * (len(errors) != 1)}. {form.page} explains the format.",
            ExitCode.DATA,
        )


def said(it: Finding) -> str:
    """A finding in words."""
    where = f"line {it.line}: " if it.line is not None else ""
    return f"{where}{it.problem}\n    {it.remedy}"


def read(body: bytes, kind: type[T], form: Form) -> tuple[T, Findings, dict[Path, int]]:
    """A file's document, with what gathers more that is wrong with it, and the lines of its parts.

    Raises:
        Unfit: it has errors, all of which it names.
    """
    findings = Findings()
    lines: dict[Path, int] = {}
    document = None
    try:
        root = nodes.read(body, form)
    except Unreadable as error:
        lines = {} if error.line is None else {(): error.line}
        findings.error((), error.problem, error.remedy)
    else:
        convert = Converter(findings, form)
        document, lines = convert.whole(root, kind), convert.lines
    refuse(findings, lines, form)
    assert document is not None, "what is missing is an error"
    return document, findings, lines


def refuse(findings: Findings, lines: Mapped[Path, int], form: Form) -> None:
    """Raise Unfit where there are errors."""
    listed = findings.listed(lines)
    if any(it.severity == "error" for it in listed):
        raise Unfit(listed, form)


class Converter:
    """Turns nodes into the types of a document, and goes on where something is wrong.

    Args:
        findings: what is wrong is added there.
        form: what kind of document it is.
        stand_ins: by key, what stands for a value that must be there and is wrong, so that the rest is checked as well.
    """

    def __init__(self, findings: Findings, form: Form, stand_ins: Mapped[str, Any] | None = None) -> None:
        self._findings = findings
        self._form = form
        self._stand_ins = stand_ins or {}
        self.lines: dict[Path, int] = {}

    def whole(self, root: Node, kind: type[T]) -> T | None:
        """The document; None where what must be there is missing or wrong."""
        if not isinstance(root, Mapping):
            self.lines[()] = root.line
            self._findings.error((), f"{self._form.what} was expected", self._form.begin)
            return None
        found = self._of(root, kind, (), "")
        return None if found is _NOTHING else found

    def _of(self, node: Node, kind: Any, path: Path, key: str) -> Any:
        """The value, or _NOTHING where it is absent or wrong."""
        self.lines.setdefault(path, node.line)
        whole = kind
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        if get_origin(kind) in {Union, UnionType}:
            if isinstance(node, Scalar) and node.null:
                return _NOTHING
            return self._of(node, _fitting(node, get_args(kind)), path, key)
        if isinstance(kind, type) and issubclass(kind, Struct):
            return self._struct(node, kind, path, key)
        if get_origin(kind) is dict:
            return self._dict(node, kind, path, key)
        if get_origin(kind) is tuple:
            return self._tuple(node, kind, path, key)
        return self._leaf(node, whole, kind, path, key)

    def _struct(self, node: Node, kind: type[Struct], path: Path, key: str) -> Any:
        mapping = self._mapping(node, path, key)
        if mapping is None:
            return _NOTHING
        fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        given: dict[str, Any] = {}
        for name, (line, child) in mapping.items.items():
            at = (*path, name)
            self.lines[at] = line
            if name not in fields:
                of = f" of {key}" if key else ""
                self._findings.error(at, f"unknown key {name[:60]!r}{of}", suggestion(name, fields, "Known"))
                continue
            value = self._of(child, fields[name].type, at, name)
            if value is not _NOTHING:
                given[fields[name].name] = value
        for name, field in fields.items():
            if field.required and field.name not in given:
                if name not in mapping.items:
                    words = " ".join(filter(None, (key, f"has no {name}")))
                    self._findings.error(path, words, f"Add `{name}:`.")
                if name not in self._stand_ins:
                    return _NOTHING
                given[field.name] = self._stand_ins[name]
        return kind(**given)

    def _dict(self, node: Node, kind: Any, path: Path, key: str) -> Any:
        key_kind, value_kind = get_args(kind)
        mapping = self._mapping(node, path, key)
        if mapping is None:
            return _NOTHING
        found = {}
        for name, (line, child) in mapping.items.items():
            at = (*path, name)
            self.lines[at] = line
            label = self._leaf(Scalar(name, False, line), key_kind, _base(key_kind), at, f"name in {key}")
            value = self._of(child, value_kind, at, f"{key}.{name}" if len(path) > 1 else name)
            if label is not _NOTHING and value is not _NOTHING:
                found[label] = value
        return found

    def _mapping(self, node: Node, path: Path, key: str) -> Mapping | None:
        if isinstance(node, Mapping):
            for name, line in node.again:
                problem = f"{name[:60]!r} is there twice, on lines {node.items[name][0]} and {line}"
                self._findings.error((*path, name), problem, "A key comes once.", f"{line}")
            return node
        if isinstance(node, Scalar) and node.null:
            return Mapping(node.line)
        words = f"{key} = {_shown(node)}: keys with values were expected"
        self._findings.error(path, words, "Write them below, indented.")
        return None

    def _tuple(self, node: Node, kind: Any, path: Path, key: str) -> Any:
        item_kind = get_args(kind)[0]
        if isinstance(node, Scalar):
            # One alone needs no brackets.
            node = Items(node.line, [] if node.null else [node])
        if isinstance(node, Mapping):
            words = f"{key} = {_shown(node)}: a list was expected"
            self._findings.error(path, words, "Write - before each, or [a, b].")
            return _NOTHING
        values = [self._of(it, item_kind, (*path, place), key) for place, it in enumerate(node.items)]
        kept = [(it, item.line) for it, item in zip(values, node.items, strict=True) if it is not _NOTHING]
        self.lines.update({(*path, place): line for place, (_, line) in enumerate(kept)})
        return tuple(it for it, _ in kept)

    def _leaf(self, node: Node, kind: Any, base: Any, path: Path, key: str) -> Any:
        if base is Any:
            return self._any(node, path)
        if not isinstance(node, Scalar) or node.null:
            self._findings.error(path, f"{key} = {_shown(node)}: one value was expected", "Write one value.")
            return _NOTHING
        try:
            return msgspec.convert(_value(node.text, base, key), kind)
        except Unreadable as error:
            self._findings.error(path, error.problem, error.remedy)
        except msgspec.ValidationError as error:
            words = str(error).partition(" - at ")[0]
            self._findings.error(
                path, f"{key} = {node.text[:80]!r}: {words}", f"{self._form.page} lists the keys with their ranges."
            )
        return _NOTHING

    def _any(self, node: Node, path: Path) -> Any:
        """A value as JSON would have it."""
        if isinstance(node, Mapping):
            self._mapping(node, path, "")
            return {name: self._any(child, (*path, name)) for name, (_, child) in node.items.items()}
        if isinstance(node, Items):
            return [self._any(it, path) for it in node.items]
        if node.null:
            return None
        if node.plain and node.text in {"true", "false"}:
            return node.text == "true"
        if node.plain and _NUMBER.fullmatch(node.text) is not None and math.isfinite(number := float(node.text)):
            return int(node.text) if node.text.lstrip("+-").isdecimal() else number
        return node.text


def _fitting(node: Node, kinds: tuple[Any, ...]) -> Any:
    """Of several kinds that a value may have, the one of its shape: keys where there are keys."""
    of_keys = [it for it in kinds if isinstance(it, type) and issubclass(it, Struct)]
    others = [it for it in kinds if it is not NoneType and it not in of_keys]
    first, last = (of_keys, others) if isinstance(node, Mapping) else (others, of_keys)
    return (first + last)[0]


def _base(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _value(text: str, base: Any, key: str) -> Any:
    """A value by the type that its place has."""

    def wrong(what: str, remedy: str) -> Unreadable:
        return Unreadable(f"{key} = {text[:80]!r} is {what}", remedy)

    if get_origin(base) is Literal:
        if text not in get_args(base):
            raise wrong("not known", suggestion(text, get_args(base), "Known"))
        return text
    if base is bool:
        if text not in {"true", "false"}:
            raise wrong("neither true nor false", "Write true or false.")
        return text == "true"
    if base in {int, float}:
        if _NUMBER.fullmatch(text) is None or (base is int and not text.isdecimal()) or len(text) > 30:
            raise wrong("no number", "Write digits alone, with a point for decimals: the unit is in the key's name.")
        if not math.isfinite(value := base(text)):
            raise wrong("greater than any number here", "Write one that is.")
        return value
    if base is datetime:
        return _moment(text, wrong)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise wrong("no text", "Write it in UTF-8.") from None
    if "\0" in text:
        raise wrong("no text that the store can hold", "Leave the NUL out.")
    return text


def _moment(text: str, wrong: Any) -> datetime:
    """A date, from midnight UTC on, or a moment with its offset."""
    try:
        moment = datetime.fromisoformat(text)
        if _DAY.fullmatch(text) is not None:
            return moment.replace(tzinfo=UTC)
        if moment.tzinfo is not None and moment - datetime.min.replace(tzinfo=UTC) > timedelta(days=2):
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise wrong("no moment", "Write a date (midnight UTC), or a time with its offset: 2026-01-31T13:00+01:00.")


def _shown(node: Node) -> str:
    if isinstance(node, Scalar):
        return "nothing" if node.null else repr(node.text[:80])
    return "a list" if isinstance(node, Items) else "keys"
