"""The command `gigawatch`, put together from the rooms' commands by entry points, so that it imports none.

An entry point `meter.probe` is the verb `gigawatch meter probe`: what is said of one thing may be several rooms'.
"""

import inspect
import logging
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click

from gigawatch import __version__
from gigawatch.errors import ExitCode, GigawatchError

GROUP = "gigawatch.commands"
ORDER = (
    "up", "collect", "serve", "dashboard", "migrate", "token", "db", "tariff", "intensity", "pue",
    "topology", "meter", "alert", "report", "replay", "simulate", "simulate-facility", "doctor", "engines",
)  # fmt: skip
HELP = {
    "meter": """Look at a facility's meters, and take in what they counted from files.

    Meters of electricity, heat and water are read over Modbus TCP, SNMP, Redfish, MQTT, IPMI and metrics endpoints.
    What their registers mean stands in a map, a file of data; a new meter is a new file. docs/meters.md says how one is
    written, and what the agent makes of the readings.

    \b
    Where the agent runs, before it reads them:
      gigawatch meter maps                                       the maps that there are
      gigawatch meter probe 10.20.0.5 --map schneider-pm5000     what this meter tells
      gigawatch meter probe --name hall-1-main                   the same of one in the settings
    \b
    Where the store is:
      gigawatch meter import utility-2026.csv --site oslo --meter grid --time-zone Europe/Oslo
      gigawatch meter list --site oslo                           whether they are heard of, and can be right
    """
}
"""Of verbs with verbs of their own, which no one room has."""


class Commands(click.Group):
    """The verbs that are installed; one whose extra is missing says which to install.

    Args:
        prefix: of the entry points' names, which is cut off.
        of_click: as click.Group takes it.
    """

    def __init__(self, *args: Any, prefix: str = "", **of_click: Any) -> None:
        super().__init__(*args, **of_click)
        self._prefix = prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs, those that people need first in front."""
        points = (point.name for point in entry_points(group=GROUP) if point.name.startswith(self._prefix))
        names = {name.removeprefix(self._prefix).partition(".")[0] for name in points}
        first = [name for name in ORDER if name in names]
        return [*first, *sorted(names.difference(first))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb, or one that only explains what to install, or None where there is no such verb."""
        if not self._prefix and cmd_name in HELP:
            return Commands(cmd_name, prefix=f"{cmd_name}.", help=inspect.cleandoc(HELP[cmd_name]))
        point = next(iter(entry_points(group=GROUP, name=f"{self._prefix}{cmd_name}")), None)
        if point is None:
            return None
        try:
            command = point.load()
        except ModuleNotFoundError as error:
            if not point.extras:
                raise
            return _not_installed(point, error.name)
        assert isinstance(command, click.Command)
        return command


def _not_installed(point: EntryPoint, module: str | None) -> click.Command:
    install = f"pip install 'gigawatch[{point.extras[0]}]'"
    verb = point.name.replace(".", " ")

    @click.command(
        verb.rpartition(" ")[2],
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        help=f"Not installed: {install}",
    )
    def explain() -> None:
        raise GigawatchError(
            f"`gigawatch {verb}` needs the Python module {module!r}, which is not installed.",
            f"Install it with: {install}",
            ExitCode.CONFIGURATION,
        )

    return explain


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gigawatch")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Read this settings file (TOML).",
)
@click.option("-v", "--verbose", count=True, help="Say more; twice for everything.")
@click.pass_context
def main(context: click.Context, config: Path | None, verbose: int) -> None:
    """Watch the power of AI factories, from one GPU server to a gigawatt.

    \b
    On one machine, with nothing else to set up:
      gigawatch up            the store, the API, the dashboard and an agent
      gigawatch up --demo     the same with a simulated fleet to look at
    \b
    On every GPU server of a fleet:
      gigawatch doctor        what can be read on this server
      gigawatch collect       the agent

    Settings come from gigawatch.toml, from the environment (GIGAWATCH_AGENT__SITE=paris) and from flags.
    Exit status: 0 done, 1 failed, 2 wrong usage, 3 wrong configuration or token, 4 database or API out of
    reach, 5 database of another version, 6 clock off, 7 malformed input.
    """
    level = [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    context.obj = config
