"""A figure as plotly.js takes it: traces and layout, in plain dicts.

Plotly's own Figure checks each property as it is set, 30 to 40 ms a chart, and that was most of what a page costs
beside its reads. Nothing is checked here; the tests have plotly check every chart.
"""

from typing import Any

Properties = dict[str, Any]


class Drawing(dict[str, Any]):
    """A figure that grows by traces, shapes and notes. Properties are those of plotly.js."""

    def __init__(self, **layout: Any) -> None:
        super().__init__(data=[], layout={})
        self.lay_out(**layout)

    def trace(self, kind: str, **properties: Any) -> None:
        """Add a trace of a kind: scatter, bar, heatmap."""
        self["data"].append({"type": kind, **properties})

    def lay_out(self, **changes: Any) -> None:
        """Change the layout; what is not named stays, in what is named as well."""
        _merge(self["layout"], changes)

    def note(self, **annotation: Any) -> None:
        """Add words at a place, without an arrow unless it says how it looks."""
        self["layout"].setdefault("annotations", []).append({"showarrow": False, **annotation})

    def across(self, y: float, line: Properties, text: str, font: Properties) -> None:
        """Add a line from one side to the other at a value, with words above it."""
        self._shape(type="line", line=line, x0=0, x1=1, xref="x domain", y0=y, y1=y, yref="y")
        self.note(text=text, font=font, x=0, xref="x domain", xanchor="left", y=y, yref="y", yanchor="bottom")

    def upright(
        self, x: float, line: Properties, text: str, font: Properties, *, before: bool, height: float = 1
    ) -> None:
        """Add a line from the bottom to the top at a time, with words before or behind it, so high of the whole."""
        self._shape(type="line", line=line, x0=x, x1=x, xref="x", y0=0, y1=1, yref="y domain")
        side = "right" if before else "left"
        self.note(text=text, font=font, x=x, xref="x", xanchor=side, y=height, yref="y domain", yanchor="top")

    def band(self, x0: float, x1: float, **look: Any) -> None:
        """Shade what lies between two times."""
        self._shape(type="rect", x0=x0, x1=x1, xref="x", y0=0, y1=1, yref="y domain", **look)

    def _shape(self, **properties: Any) -> None:
        self["layout"].setdefault("shapes", []).append(properties)


def _merge(into: Properties, changes: Properties) -> None:
    for name, value in changes.items():
        if not isinstance(value, dict):
            into[name] = value
            continue
        # Never the caller's own, which later changes would be merged into.
        if not isinstance(into.get(name), dict):
            into[name] = {}
        _merge(into[name], value)
