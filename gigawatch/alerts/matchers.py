"""Matchers of labels, written and meant as Alertmanager's: `site=oslo`, `rule!=power_cap`, `rack=~"A1-.*"`.

A label that is absent counts as empty. A pattern must match the whole value. Patterns are RE2's, as there: whoever
silences an alert writes one, and the process that leads matches it, so that its time must not grow beyond its length.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

import re2
from msgspec import Meta, Struct

Operator = Literal["=", "!=", "=~", "!~"]
LabelName = Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_]{0,62}$")]
_WRITTEN = re.compile(r"\s*([a-z_][a-z0-9_]{0,62})\s*(=~|!~|!=|=)\s*(.*?)\s*", re.DOTALL)
_OPTIONS = re2.Options()
# It would write them to the standard error.
_OPTIONS.log_errors = False


class Matcher(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One condition on one label."""

    label: LabelName
    operator: Operator
    value: Annotated[str, Meta(max_length=500)]

    def __post_init__(self) -> None:
        """Refuse a pattern that is none, and what the store cannot hold."""
        if "\0" in self.value:
            raise ValueError(f"the value of {self.label} has a NUL character")
        if self.operator in {"=~", "!~"}:
            try:
                _pattern(self.value)
            except re2.error as error:
                why = error.args[0].decode(errors="replace")
                raise ValueError(f"{self.value!r} is no regular expression that is known here (RE2): {why}") from error

    def __str__(self) -> str:
        """As parse() takes it."""
        return f'{self.label}{self.operator}"{self.value}"'

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether it holds for these labels."""
        value = labels.get(self.label, "")
        if self.operator in {"=", "!="}:
            return (value == self.value) == (self.operator == "=")
        return (_pattern(self.value).fullmatch(value) is not None) == (self.operator == "=~")


@lru_cache(maxsize=2_048)
def _pattern(written: str) -> Any:
    return re2.compile(written, _OPTIONS)


def parse(text: str) -> Matcher:
    """A matcher as people write it, its value in double quotes or without.

    Raises:
        ValueError: it is none; the message says why.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:100]!r} is no matcher: write LABEL=VALUE, or with !=, =~ or !~ in place of =")
    label, operator, value = found.groups()
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return Matcher(label=label, operator=operator, value=value)  # type: ignore[arg-type] # one of _WRITTEN's


def all_match(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether all of them hold for these labels."""
    return all(it.matches(labels) for it in matchers)
