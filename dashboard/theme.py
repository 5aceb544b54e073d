"""The look: tokens of the light and the dark theme, once, for the style sheets and for the figures.

Text on any of the surfaces has a contrast of 4.5:1 or more, and lines and marks 3:1; tests compute them.
"""

from typing import Literal, get_args

from msgspec import Struct
from msgspec.structs import asdict

ThemeName = Literal["light", "dark"]
THEME_NAMES: tuple[ThemeName, ...] = get_args(ThemeName)
COOKIE = "gigawatch_theme"
FONT = (
    'Inter, "Segoe UI", system-ui, -apple-system, Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans Condensed",'
    " sans-serif"
)


class Theme(Struct, frozen=True, kw_only=True):
    """Colours of one theme."""

    name: ThemeName
    canvas: str
    surface: str
    surface_raised: str
    border: str
    border_strong: str
    grid: str
    text: str
    text_muted: str
    accent: str
    accent_text: str
    """On the accent."""
    accent_soft: str
    """Behind the accent's text."""
    ok: str
    warn: str
    warn_soft: str
    bad: str
    bad_soft: str
    simulated: str
    simulated_soft: str
    absent: str
    """What does not report."""
    series: tuple[str, ...]
    """Okabe and Ito's, which the common kinds of colour blindness tell apart, shaded to the surface."""
    sequence: tuple[str, ...]
    """From little to much, for power and utilisation."""
    heat: tuple[str, ...]
    """From cool to hot."""


LIGHT = Theme(
    name="light",
    canvas="#f4f6f8",
    surface="#ffffff",
    surface_raised="#f9fafb",
    border="#e0e4ea",
    border_strong="#8b95a5",
    grid="#e9ecf1",
    text="#141a22",
    text_muted="#566072",
    accent="#1f5fc4",
    accent_text="#ffffff",
    accent_soft="#e8f0fd",
    ok="#1b7a4b",
    warn="#8f5200",
    warn_soft="#fff3dc",
    bad="#b3261e",
    bad_soft="#fdeceb",
    simulated="#6b3fa0",
    simulated_soft="#f2ebfb",
    absent="#c3c9d3",
    series=("#0072b2", "#d98200", "#008f6a", "#b1568c", "#3f9bd1", "#c14d00", "#8a7a00", "#737d8c"),
    sequence=("#e6eef7", "#a9c8e6", "#5c9bd0", "#1f6cb0", "#0a3f75"),
    heat=("#dfe9f2", "#a6c4dc", "#f1d08a", "#e08a3c", "#a8231b"),
)
DARK = Theme(
    name="dark",
    canvas="#0c0f14",
    surface="#151a21",
    surface_raised="#1b212a",
    border="#29313c",
    border_strong="#667385",
    grid="#232a34",
    text="#e7ebf1",
    text_muted="#9ba6b6",
    accent="#7db1ff",
    accent_text="#0b1626",
    accent_soft="#182a45",
    ok="#57c78d",
    warn="#f0b352",
    warn_soft="#33270f",
    bad="#ff8a80",
    bad_soft="#3a1a18",
    simulated="#c6a3f5",
    simulated_soft="#2a1f3d",
    absent="#3b4552",
    series=("#4da3dd", "#e9a63a", "#35b893", "#d48ab6", "#8fcbf0", "#e8804a", "#d6c64c", "#8f9aab"),
    sequence=("#1c2733", "#1f4568", "#2a6ca6", "#5aa0dc", "#b5daf8"),
    heat=("#1c2a36", "#2f5871", "#a68a3a", "#e08a3c", "#ff6f61"),
)
THEMES: dict[ThemeName, Theme] = {"light": LIGHT, "dark": DARK}


def named(name: str | None) -> Theme:
    """The theme of this name; light where there is none."""
    return DARK if name == "dark" else LIGHT


def style_sheet() -> str:
    """The tokens as custom properties, by the attribute data-theme that theme.js sets before anything is drawn."""
    return "\n".join(
        f'{":root, " if theme is LIGHT else ""}:root[data-theme="{theme.name}"] {{\n'
        f"  color-scheme: {theme.name};\n  --font: {FONT};\n{_properties(theme)}}}\n"
        for theme in THEMES.values()
    )


def _properties(theme: Theme) -> str:
    lines = []
    for field, value in asdict(theme).items():
        name = field.replace("_", "-")
        if isinstance(value, tuple):
            lines += [f"  --{name}-{number}: {part};\n" for number, part in enumerate(value)]
        elif field != "name":
            lines.append(f"  --{name}: {value};\n")
    return "".join(lines)
