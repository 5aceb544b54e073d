"""Values as people read them."""

from datetime import UTC, date, datetime

from api.reports.model import Kind, Value

NOT_KNOWN = "–"


def shown(value: Value, kind: Kind) -> str:
    """A value of a column in words; None is a dash.

    Args:
        value: what it is.
        kind: of the column.
    """
    match value:
        case None:
            said = NOT_KNOWN
        case bool():
            said = "yes" if value else "no"
        case datetime():
            said = f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"
        case date():
            said = value.isoformat()
        case str():
            said = value
        case _:
            said = _figure(value, kind)
    return said


def _figure(value: float, kind: Kind) -> str:
    if kind == "share":
        return _share(value)
    if kind == "ratio":
        return f"{value:.3f}"
    return grouped(f"{value:,}") if isinstance(value, int) else number(value)


def number(value: float) -> str:
    """A number to four digits at least, with its thousands apart."""
    size = abs(value)
    if size >= 1_000:
        return grouped(f"{value:,.0f}")
    if size >= 100:
        return f"{value:.1f}"
    return f"{value:.4g}"


def _share(value: float) -> str:
    """In %, where what is nearly all is not all."""
    text = f"{100 * value:.2f}"
    return f"{'99.99' if text == '100.00' and value < 1 else text} %"


def grouped(text: str) -> str:
    """Digits with their thousands apart, of a number with commas there."""
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}")
