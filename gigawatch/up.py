"""The verb `gigawatch up`: everything on one machine, each part a process that is started again if it fails, the
embedded database, too."""

import ctypes
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType

import click
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from gigawatch import database, settings, tokens
from gigawatch.demo import pricing_verbs, unpriced_sites
from gigawatch.embedded import EmbeddedServer
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.ports import require_free
from gigawatch.settings import Settings
from gigawatch.tokens import Role

READY_TIMEOUT_S = 60
STOP_TIMEOUT_S = 15
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
DEMO_HISTORY = timedelta(hours=24)
GATEWAYS = "*/gigawatch.toml"
"""Where the simulated facility writes the configuration of each site's agent."""
PR_SET_PDEATHSIG = 1


@click.command()
@click.option(
    "--demo",
    is_flag=True,
    help="Add a simulated fleet and its facility, in a data directory of its own, open to this machine.",
)
@click.option(
    "--requests",
    type=click.Path(exists=True, dir_okay=False),
    help="With --demo: a CSV file of recorded requests for its engines, as `gigawatch simulate --requests` takes it.",
)
@click.option("--data-dir", help="Folder of the embedded database and the spool.")
@click.option("--database-url", help="Use this PostgreSQL or TimescaleDB in place of the embedded one.")
@click.option("--port", type=int, help="Port of the dashboard; default 8601.")
@click.option("--api-port", type=int, help="Port of the API; default 8600.")
@click.pass_obj
def up(
    config: Path | None,
    /,
    demo: bool,
    requests: str | None,
    data_dir: str | None,
    database_url: str | None,
    port: int | None,
    api_port: int | None,
) -> None:
    """Run everything on this machine: store, API, dashboard and, where there is an NVIDIA driver, the agent.

    \b
      gigawatch up           watch the GPUs of this machine
      gigawatch up --demo    look at a simulated fleet; whatever it shows says so

    Ctrl-C stops it; the data stay in the data directory.
    """
    if requests and not demo:
        raise click.UsageError("--requests is for the simulated fleet of --demo.")
    flags = {
        "store.data_dir": data_dir,
        "store.database_url": database_url,
        "dashboard.port": port,
        "server.port": api_port,
    }
    loaded = settings.load(config, flags)
    if demo and data_dir is None:
        loaded = settings.load(config, {**flags, "store.data_dir": f"{loaded.store.data_dir}-demo"})
    folder = Path(loaded.store.data_dir).expanduser()
    require_free(loaded.server.host, loaded.server.port, "server.port", "--api-port")
    require_free(loaded.dashboard.host, loaded.dashboard.port, "dashboard.port", "--port")
    with _terminate_as_interrupt(), ExitStack() as stack:
        try:
            url, server = loaded.store.database_url, None
            if url is None:
                click.echo(f"Starting the embedded database in {folder} …")
                server = stack.enter_context(EmbeddedServer(folder))
                url = server.url
            parts = _Parts(config, loaded, folder, url, server)
            stack.callback(parts.stop)
            parts.start(demo=demo, requests=requests)
            parts.watch(demo=demo)
        except KeyboardInterrupt:
            click.echo("\nStopping …")
    click.echo("Stopped.")


class _Part:
    """A process of ours.

    Args:
        name: in words.
        launch: starts it.
        process: the one that runs already.
    """

    def __init__(
        self,
        name: str,
        launch: Callable[[], "subprocess.Popen[bytes]"],
        process: "subprocess.Popen[bytes] | None" = None,
    ) -> None:
        self._name = name
        self._launch = launch
        self._process = process
        self._started_s = 0.0
        self._pause_s = SHORTEST_PAUSE_S
        self._due_s = 0.0

    def start(self) -> None:
        self._started_s = time.monotonic()
        self._process = self._launch()

    def ended(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def mend(self) -> None:
        """Start it again if it failed, after a pause that grows while it keeps failing."""
        status = self.ended()
        now_s = time.monotonic()
        if status is not None:
            if now_s - self._started_s > LONGEST_PAUSE_S:
                self._pause_s = SHORTEST_PAUSE_S
            self._process = None
            self._due_s = now_s + self._pause_s
            click.echo(
                f"{self._name} ended with status {status}; again in {self._pause_s:.0f} s.",
                err=True,
            )
            self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
        elif self._process is None and now_s >= self._due_s:
            self.start()

    def stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            click.echo(f"{self._name} does not stop; killing it.", err=True)
            self._process.kill()
            self._process.wait()


class _Parts:
    """The parts of `up`, over one store."""

    def __init__(
        self, config: Path | None, loaded: Settings, folder: Path, url: str, server: EmbeddedServer | None
    ) -> None:
        self._settings = loaded
        self._folder = folder
        self._engine = database.engine(url, pool_size=1, application="gigawatch up")
        self._arguments = ["--config", str(config)] if config else []
        # Addresses with passwords go by the environment: others can see the arguments of a process.
        self._environment = {
            **os.environ,
            "GIGAWATCH_STORE__DATABASE_URL": url,
            "GIGAWATCH_STORE__DATA_DIR": str(folder),
            "GIGAWATCH_SERVER__PORT": str(loaded.server.port),
            "GIGAWATCH_DASHBOARD__PORT": str(loaded.dashboard.port),
            "GIGAWATCH_AGENT__SERVER_URL": f"http://127.0.0.1:{loaded.server.port}",
        }
        self._server = None if server is None else _Part("The embedded database", server.launch, server.process)
        """It is stopped by its owner, after all parts."""
        self._parts: list[_Part] = []
        self._facility = folder / "facility"
        """What the demo's facility writes."""
        self._gateways: set[Path] = set()
        """Configurations of agents that read its meters."""
        self._priced: set[str] = set()

    def start(self, *, demo: bool, requests: str | None) -> None:
        """Start everything, and say where it is."""
        self._folder.mkdir(parents=True, exist_ok=True)
        status = self._run("migrate")
        if status != 0:
            # It has said itself what is wrong.
            raise SystemExit(status)
        agent_token = self._token("agent")
        self._environment["GIGAWATCH_AGENT__TOKEN_FILE"] = str(agent_token)
        self._add("serve")
        self._await(f"http://127.0.0.1:{self._settings.server.port}/readyz", "serve")
        if demo:
            self._environment["GIGAWATCH_DASHBOARD__OPEN_ACCESS"] = "true"
        self._add("dashboard")
        address = f"http://127.0.0.1:{self._settings.dashboard.port}/"
        self._await(f"{address}healthz", "dashboard")
        if _has_nvml():
            self._add("collect")
        elif not demo:
            click.echo(
                "This machine has no NVIDIA driver, so that there is nothing to read here yet. Run `gigawatch"
                " collect` on your GPU servers, or look at a simulated fleet with `gigawatch up --demo`."
            )
        if demo:
            history = self._missing_history()
            options = ("--requests", requests) if requests else ()
            self._add("simulate", "--history", history, *options)
            for path in self._facility.glob(GATEWAYS):
                path.unlink()
            self._add("simulate-facility", "--data-dir", str(self._facility), "--history", history)
            click.echo(f"\nThe dashboard is at {address} (simulated data, open to this machine)")
        else:
            secret = self._token("operator").read_text(encoding="ascii").strip()
            click.echo(f"\nThe dashboard is at {address}?token={secret}")
        click.echo(f"The API is at http://127.0.0.1:{self._settings.server.port}/docs")
        if self._settings.store.database_url is None:
            click.echo(f"Other verbs work beside it: gigawatch alert list --data-dir {self._settings.store.data_dir}")
        click.echo("Ctrl-C stops everything.\n")

    def watch(self, *, demo: bool) -> None:
        """Start again what fails, for ever."""
        while True:
            time.sleep(0.5)
            for part in (*([self._server] if self._server else []), *self._parts):
                part.mend()
            if demo:
                self._price()
                self._read_facility()

    def _price(self) -> None:
        """Give prices and carbon intensities to what came of the demo's sites, so that tokens have a cost."""
        # Without the database it goes on when that is back.
        with suppress(SQLAlchemyError):
            for site in unpriced_sites(self._engine):
                if site not in self._priced:
                    self._priced.add(site)
                    for verb in pricing_verbs(site, self._folder):
                        self._run(*verb)

    def stop(self) -> None:
        """Stop the parts, the last started first."""
        for part in reversed(self._parts):
            part.stop()
        self._engine.dispose()

    def _add(self, name: str, *options: str) -> None:
        self._append(name, [*self._arguments, name, *options])

    def _append(self, name: str, arguments: list[str]) -> None:
        part = _Part(f"`gigawatch {name}`", partial(_launch, arguments, self._environment))
        self._parts.append(part)
        part.start()

    def _read_facility(self) -> None:
        """Place the simulated facility's meters, and start an agent for each site, once they answer."""
        new = sorted(set(self._facility.glob(GATEWAYS)) - self._gateways)
        if new:
            self._run("topology", "apply", str(self._facility / "topology.yaml"))
        for path in new:
            self._gateways.add(path)
            # The folder of its spool goes before the one that all other parts have by the environment.
            self._append("collect", ["--config", str(path), "collect", "--data-dir", str(path.parent)])

    def _run(self, *arguments: str) -> int:
        """Run a verb to its end, and give its exit code."""
        return subprocess.run(
            [sys.executable, "-m", "gigawatch", *self._arguments, *arguments],
            env=self._environment, stdout=subprocess.DEVNULL, check=False,
        ).returncode  # fmt: skip

    def _await(self, address: str, name: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            with suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(address, timeout=2).close()  # noqa: S310 # our own http address
                return
            status = self._parts[-1].ended()
            if status is not None:
                raise SystemExit(status or ExitCode.FAILURE)
            time.sleep(0.05)
        raise GigawatchError(
            f"`gigawatch {name}` did not answer at {address} within {READY_TIMEOUT_S} s",
            "Its messages above may say why.",
        )

    def _token(self, role: Role) -> Path:
        """A file with a good token of this role, made if need be."""
        path = self._folder / f"{role}.token"
        with database.border(self._engine.url), self._engine.begin() as connection:
            known = tokens.holder_of(connection, path.read_text(encoding="ascii").strip()) if path.is_file() else None
            if known is not None and known.role == role:
                return path
            secret = tokens.create(connection, f"up-{role}-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}", role)
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(secret + "\n", encoding="ascii")
        return path

    def _missing_history(self) -> str:
        """How much of the last day the store lacks, as `simulate --history` takes it."""
        newest = _newest_simulated(self._engine)
        missing = DEMO_HISTORY if newest is None else min(DEMO_HISTORY, datetime.now(UTC) - newest)
        return f"{int(missing.total_seconds() // 60)}m"


def _launch(arguments: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a verb of ours."""
    return subprocess.Popen(
        [sys.executable, "-m", "gigawatch", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        # Its own session, so that Ctrl-C reaches us alone and we stop the parts in order.
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 # we have no threads
    )


def _newest_simulated(engine: Engine) -> datetime | None:
    with engine.connect() as connection:
        newest = connection.scalar(text("SELECT max(time) FROM report.gpu_windows WHERE simulated"))
    assert newest is None or isinstance(newest, datetime)
    return newest


def _has_nvml() -> bool:
    """Whether this machine has an NVIDIA driver; that it works is for the agent to find out."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


def _die_with_parent() -> None:
    """Make the kernel end a part if `up` is killed: an orphan would keep its port."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM stop us as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
