"""YAML as nodes with their lines; and JSON, which is YAML too. What a plain value means is left to who reads it.

Built from the parser's events without recursion. Aliases, with which a few lines grow to gigabytes, are refused, and so
are tags, further documents, and what is nested deeper or larger than what people declare.
"""

from collections.abc import Iterator
from typing import Any

import yaml
from msgspec import Struct, field

from gigawatch.units import BYTES_PER_MIB

MOST_BYTES = 4 * BYTES_PER_MIB
MOST_NESTED = 12
MOST_VALUES = 500_000
# The parser in C is part of PyYAML's wheels; it takes a tenth of the time.
LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS = {"", "~", "null", "Null", "NULL"}


class Form(Struct, frozen=True, kw_only=True):
    """What kind of document is read, for what is said of one that cannot be."""

    what: str
    """As `a topology`."""
    begin: str
    """How one begins."""
    shorter: str
    """How one that is too long becomes shorter."""
    page: str
    """Where the format is explained."""


class Unreadable(Exception):
    """What stops the reading of a file, or of one value."""

    def __init__(self, problem: str, remedy: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem, self.remedy, self.line = problem, remedy, line


class Scalar(Struct, frozen=True):
    """One value as it is written."""

    text: str
    plain: bool
    """Whether it has no quotes."""
    line: int

    @property
    def null(self) -> bool:
        """Whether it says that there is nothing."""
        return self.plain and self.text in _NULLS


class Items(Struct, frozen=True):
    """A list."""

    line: int
    items: list[Any] = field(default_factory=list)


class Mapping(Struct, frozen=True):
    """Keys and what they have."""

    line: int
    items: dict[str, tuple[int, Any]] = field(default_factory=dict)
    """By key: its line, and its node."""
    again: list[tuple[str, int]] = field(default_factory=list)
    """Keys that came once more, with their lines."""


Node = Scalar | Items | Mapping


def read(body: bytes, form: Form) -> Node:
    """The nodes of a file.

    Raises:
        Unreadable: it is no YAML, or has what is refused.
    """
    root: Node | None = None
    # Each open list or mapping, and of a mapping the key that waits for its value.
    within: list[tuple[Items | Mapping, list[Scalar]]] = []
    values = 0
    for event in _events(_text(body, form)):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.CollectionEndEvent):
            within.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                raise Unreadable("there is a second document", "Write all into one, without ---.", line)
            continue
        node = _node(event, line, form)
        values += 1
        if values > MOST_VALUES:
            raise Unreadable(f"there are more than {MOST_VALUES} values", form.shorter, line)
        if within:
            _put(node, *within[-1])
        else:
            root = node
        if not isinstance(node, Scalar):
            if len(within) == MOST_NESTED:
                raise Unreadable(f"this is nested deeper than {form.what} is", f"{form.page} has an example.", line)
            within.append((node, []))
    if root is None:
        raise Unreadable("the file is empty", form.begin, 1)
    return root


def _node(event: Any, line: int, form: Form) -> Node:
    if isinstance(event, yaml.AliasEvent):
        raise Unreadable(f"*{event.anchor} is an alias", f"Write out what it stands for. {form.shorter}", line)
    if event.anchor is not None:
        raise Unreadable(f"&{event.anchor} is an anchor", f"Write out where it is meant. {form.shorter}", line)
    if event.tag is not None:
        raise Unreadable(f"{event.tag[:60]!r} is a tag", "Write the value alone.", line)
    if isinstance(event, yaml.ScalarEvent):
        return Scalar(event.value, not event.style, line)
    return Items(line) if isinstance(event, yaml.SequenceStartEvent) else Mapping(line)


def _put(node: Node, into: Items | Mapping, key: list[Scalar]) -> None:
    """Put a node where it belongs; of a mapping it is by turns a key and a value."""
    if isinstance(into, Items):
        into.items.append(node)
    elif not key:
        if not isinstance(node, Scalar) or node.null:
            raise Unreadable("a key is no name", "Put names with ranges into quotes here.", node.line)
        key.append(node)
    else:
        name = key.pop()
        if name.text in into.items:
            into.again.append((name.text, name.line))
        else:
            into.items[name.text] = (name.line, node)


def _text(body: bytes, form: Form) -> str:
    if len(body) > MOST_BYTES:
        raise Unreadable(f"the file is larger than {MOST_BYTES // BYTES_PER_MIB} MiB", form.shorter)
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(
            "the file is no text in UTF-8", "Save it as UTF-8.", body.count(b"\n", 0, error.start) + 1
        ) from error


def _events(text: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=LOADER)
    except yaml.reader.ReaderError as error:
        line = text.encode().count(b"\n", 0, error.position) + 1
        raise Unreadable("a character that text does not have", "Is it a text file?", line) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(it for it in (error.context, error.problem) if it)
        raise Unreadable(
            f"this is not YAML: {words}",
            "Indent with spaces, not tabs; within […] and {…} put names with ranges into quotes.",
            None if mark is None else mark.line + 1,
        ) from error
