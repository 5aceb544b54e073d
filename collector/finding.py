"""What somebody who looks at a node finds."""

from typing import Literal

from msgspec import Struct


class Finding(Struct, frozen=True, omit_defaults=True):
    """One thing that was looked at."""

    subject: str
    level: Literal["good", "note", "bad"]
    text: str
    remedy: str = ""
