"""The error that people see, and the exit codes of the command `gigawatch`."""

from enum import IntEnum

import click


class ExitCode(IntEnum):
    """What a script can tell from the exit status."""

    FAILURE = 1
    USAGE = 2
    CONFIGURATION = 3
    """A setting, a file or a token is wrong: a retry will not help."""
    UNREACHABLE = 4
    """The database or the API does not answer: a retry may help."""
    SCHEMA = 5
    """The database's schema and this version do not fit."""
    CLOCK = 6
    """This machine's clock and the server's differ too much."""
    DATA = 7
    """The input data are malformed."""


class GigawatchError(click.ClickException):
    """A failure with its remedy, shown without a traceback.

    Args:
        problem: what is wrong, naming the field and the value.
        remedy: what to do about it.
        exit_code: the status that the command ends with.
    """

    def __init__(self, problem: str, remedy: str, exit_code: ExitCode = ExitCode.FAILURE) -> None:
        self.problem = _printable(problem)
        super().__init__(f"{self.problem}\n  {remedy}" if remedy else self.problem)
        self.remedy = remedy
        self.exit_code = int(exit_code)  # type: ignore[misc] # click reads it from the instance


def _printable(text: str) -> str:
    """What others said may hold what a terminal obeys: that is written as Python writes it."""
    return "".join(it if it.isprintable() or it == "\n" else repr(it)[1:-1] for it in text)
