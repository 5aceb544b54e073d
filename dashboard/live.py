"""What of a page changes while one looks at it, so that a refresh sends that alone.

To replace a page as a whole would throw away the reader's zoom, scroll position and focus. A page's live parts are
its figures, and what has an id that begins with `live-`; a refresh compares their digests with those
that the browser holds and sends the parts that differ.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

from dash import Patch, dcc, set_props
from dash.development.base_component import Component
from plotly.io.json import to_json_plotly

Digests = dict[str, str]
PREFIX = "live-"
ADDRESS = "address"
"""Beside the digests: what address they are of. A refresh may overtake a page that was asked for before it."""
ALERTS = "alerts"
"""Beside them: how many alerts the navigation says that there are."""


def parts(content: Any) -> dict[str, dict[str, Any]]:
    """The live properties of a page, by the id of their component."""
    found: dict[str, dict[str, Any]] = {}
    for component in _walk(content):
        identity = getattr(component, "id", None)
        if not isinstance(identity, str):
            continue
        if isinstance(component, dcc.Graph):
            found[identity] = {"figure": component.figure}
        elif identity.startswith(PREFIX):
            found[identity] = {"children": component.children}
    return found


def digests(found: dict[str, dict[str, Any]]) -> Digests:
    """What tells whether a part changed."""
    return {
        identity: hashlib.sha256(str(to_json_plotly(properties)).encode()).hexdigest()[:16]
        for identity, properties in found.items()
    }


def update(found: dict[str, dict[str, Any]], new: Digests, held: Digests) -> bool:
    """Send the parts that differ from those held; False: the page is built otherwise now, and must be sent whole."""
    if new.keys() != held.keys() or new.get(ADDRESS) != held.get(ADDRESS):
        return False
    for identity, properties in found.items():
        if new[identity] != held[identity]:
            figure = properties.get("figure")
            set_props(identity, properties if figure is None else {"figure": _without_view(figure)})
    return True


def _without_view(figure: dict[str, Any]) -> Patch:
    """All of a figure but what its reader may have chosen: the part of it to look at."""
    patch = Patch()
    patch["data"] = figure["data"]
    # What a figure no longer has must go.
    for key, value in ({"annotations": [], "shapes": []} | figure["layout"]).items():
        if not key.startswith(("xaxis", "yaxis")):
            patch["layout"][key] = value
            continue
        for part, setting in value.items():
            if part != "range":
                patch["layout"][key][part] = setting
    return patch


def _walk(content: Any) -> Iterator[Component]:
    if isinstance(content, (list, tuple)):
        for part in content:
            yield from _walk(part)
    elif isinstance(content, Component):
        yield content
        yield from _walk(getattr(content, "children", None))
