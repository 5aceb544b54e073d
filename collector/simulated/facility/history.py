"""The facility's past: meters' readings folded by the agent's own code, and laid into the spool of the agent to come.

So windows of the past end where those of the agent begin, without overlap and with the registers going on: the agent
finds in its spool where an agent before it had left off.
"""

from pathlib import Path

from collector.client import utc_now
from collector.meters.watched import WatchedMeter
from collector.simulated.facility.metering import SimulatedMeter
from collector.spool import Checkpoint, Spool, Windows
from gigawatch import __version__
from gigawatch.records import Event, Inventory, MeterWindow
from gigawatch.settings import Agent
from gigawatch.units import MILLISECONDS_PER_SECOND
from gigawatch.wire import Batch, encode

WINDOW_S = 600
REGISTER_S, POWER_S = 300, 60
"""How often a meter with a register is read in the past, and one whose energy is integrated from its power."""
BATCH_S = 4 * 3_600


class Past:
    """The past of one site's meters.

    Args:
        agent: settings of the agent that will read them.
        folder: the agent's data folder.
        meters: the site's, at the start of the past.
        start_s: its start, s since 1970 UTC.
        goes_on: whether it begins where an agent before ended; else what meters counted in between is not known.
    """

    def __init__(
        self, agent: Agent, folder: Path, meters: list[SimulatedMeter], start_s: int, *, goes_on: bool
    ) -> None:
        self.windows = 0
        """Windows that were laid into the spool."""
        self._machine_id, self._site = agent.machine_id or "", agent.site
        self._spool = Spool(folder / "spool.sqlite", agent.spool_max_mib, agent.spool_max_age_h)
        before = self._spool.checkpoint()
        marks = before.meters if before and goes_on else {}
        start_ms = start_s * MILLISECONDS_PER_SECOND
        self._meters = [
            (it, interval_s, WatchedMeter(it.settings("127.0.0.1", interval_s), WINDOW_S, start_ms, marks.get(it.name)))
            for it, interval_s in ((it, REGISTER_S if it.has_register else POWER_S) for it in meters)
        ]
        self._is_first = True

    def read(self, now_s: int) -> None:
        """Read all meters, as at the start of the past."""
        for meter, _, watched in self._meters:
            self._take(meter, watched, now_s)

    def look(self, now_s: int) -> None:
        """Read the meters that are due at now_s, s since 1970 UTC."""
        for meter, interval_s, watched in self._meters:
            if now_s % interval_s == 0:
                self._take(meter, watched, now_s)
        if now_s % BATCH_S == 0:
            self._store(now_s, last=False)

    def end(self, now_s: int) -> None:
        """Read all meters once more, and leave the spool to the agent."""
        self.read(now_s)
        self._store(now_s, last=True)
        self._spool.close()

    @staticmethod
    def _take(meter: SimulatedMeter, watched: WatchedMeter, now_s: int) -> None:
        if (reading := meter.read(now_s)) is not None:
            watched.take(now_s * MILLISECONDS_PER_SECOND, reading)

    def _store(self, now_s: int, *, last: bool) -> None:
        now_ms = now_s * MILLISECONDS_PER_SECOND
        windows: list[MeterWindow] = []
        events: list[Event] = []
        for _, _, watched in self._meters:
            windows += watched.close(now_ms, stop=last)
            events += watched.take_events()
        marks = {watched.name: watched.mark() for _, _, watched in self._meters}
        inventory = Inventory(hostname=self._machine_id, site=self._site, agent_version=__version__)
        body = encode(
            Batch(machine_id=self._machine_id, sent_at=utc_now(), spool_id=self._spool.spool_id, simulated=True),
            inventory=inventory if self._is_first else None,
            meter_windows=windows,
            events=events,
        )
        # A simulated agent has no boot, and goes on from another's of any.
        self._spool.append(body, Windows(meter=len(windows)), Checkpoint(None, now_ms, {}, (), meters=marks))
        self._is_first = False
        self.windows += len(windows)
