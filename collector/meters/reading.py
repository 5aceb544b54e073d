"""What one reading of a meter tells, and what every driver is."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from gigawatch.errors import ExitCode, GigawatchError


class Reading(Struct, frozen=True, kw_only=True):
    """A meter as it was at one moment, in the units of the store; what it does not tell is absent."""

    at_s: float
    """By the monotonic clock: half-way between question and answer."""
    energy_mj: int | None = None
    """What its register of energy says since it began to count."""
    energy_wraps_mj: int | None = None
    """At what the register begins again from zero; absent where that is not known."""
    power_mw: int | None = None
    """Below 0 it flows the other way."""
    least_phase_mw: int | None = None
    """The least of its phases' powers."""
    current_ma: int | None = None
    """The greatest of the phases'."""
    volume_ml: int | None = None
    """What its register of volume says since it began to count."""
    volume_wraps_ml: int | None = None
    temp_mc: int | None = None
    """Thousandths of 1 °C."""
    identity: str | None = None
    """Its serial number, or what else changes when it is replaced."""
    refused: tuple[str, ...] = ()
    """Values that were left out since they cannot be, each in words: figure, value, why."""
    raws: Mapping[str, Sequence[object]] = {}
    """What it told of each figure, before scales and units: for people, who look at a map."""


class MeterProblem(GigawatchError):
    """A meter could not be read: what happened, and what to do."""

    def __init__(self, problem: str, remedy: str, exit_code: ExitCode = ExitCode.UNREACHABLE) -> None:
        super().__init__(problem, remedy, exit_code)


class Denied(MeterProblem):
    """A meter does not let us in: asked again and again, it may lock the account, for people too.

    Args:
        of_account: whether user and password are what it does not take; else they are good, and may not read this.
    """

    def __init__(self, problem: str, remedy: str, *, of_account: bool = True) -> None:
        super().__init__(problem, remedy, ExitCode.CONFIGURATION)
        self.of_account = of_account


class Driver(Protocol):
    """Reads one meter over its protocol. Used by one thread."""

    def read(self) -> Reading:
        """The meter as it is now.

        Raises:
            MeterProblem: it did not answer in time, or what it answered is not its map's.
        """
        ...

    def close(self) -> None:
        """Give connections back. It may be read again afterwards."""
        ...
