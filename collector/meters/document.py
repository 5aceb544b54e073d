"""A JSON document that a meter tells: decoded and looked up. It is hostile until then."""

import json
from decimal import Decimal
from typing import Any

from collector.meters.maps import Raw, Refused


def decode(content: bytes) -> Any:
    """The document, its numbers as they are written.

    Raises:
        Refused: it is no JSON.
    """
    try:
        return json.loads(content, parse_float=Decimal, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Refused(f"{content[:40]!r} is no JSON") from None


def _refuse(constant: str) -> None:
    # NaN and Infinity, which Python takes and JSON does not know.
    raise ValueError(constant)


def find(document: Any, path: str) -> Any:
    """What is in a document at a path of maps.JsonPath; None where nothing is."""
    for step in path.split("."):
        if isinstance(document, dict):
            document = document.get(step)
        elif isinstance(document, list) and step.isascii() and step.isdigit() and len(step) < 6:
            document = document[int(step)] if int(step) < len(document) else None
        else:
            return None
    return document


def scalar(found: Any, path: str) -> Raw:
    """A number or a text that was found.

    Raises:
        Refused: it is neither.
    """
    if isinstance(found, bool) or not isinstance(found, int | float | Decimal | str):
        raise Refused(f"{path} is {str(found)[:40]}, which is no number")
    return found
