"""One settings object, from a TOML file, the environment and flags, in this order of rising rank.

The file is gigawatch.toml in the working directory, else /etc/gigawatch/gigawatch.toml, or what GIGAWATCH_CONFIG
or --config names. In the environment a key is GIGAWATCH_<SECTION>__<KEY>. Unknown sections and keys are errors.
"""

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import platformdirs
from msgspec import Meta, Struct

from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.records import Identity, Name, Role

PLACES = (Path("gigawatch.toml"), Path("/etc/gigawatch/gigawatch.toml"))
Port = Annotated[int, Meta(ge=0, le=65_535)]
WINDOW_LENGTHS_S = (1, 2, 5, 10, 15, 20, 30, 60)


def _data_dir() -> str:
    # A service and root keep their data where services do.
    if os.geteuid() == 0:
        return "/var/lib/gigawatch"
    return platformdirs.user_data_dir("gigawatch", appauthor=False)


class Store(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where data are kept."""

    data_dir: str = msgspec.field(default_factory=_data_dir)
    """Folder of the embedded database, the spool and generated secrets."""
    database_url: str | None = None
    """postgresql://user:password@host:port/database; without it an embedded database is kept in data_dir."""
    pool_size: Annotated[int, Meta(ge=1, le=1_000)] = 10
    statement_timeout_s: Annotated[float, Meta(gt=0, le=3_600)] = 30.0
    """How long one read may take."""


class Agent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The node agent, `gigawatch collect`."""

    server_url: str = "http://127.0.0.1:8600"
    token: str | None = None
    token_file: str | None = None
    ca_file: str | None = None
    """Certificates to trust for https, where the system's are not enough."""
    site: Name = "default"
    rack: Name | None = None
    labels: dict[Name, Name] = {}
    machine_id: str | None = None
    """Identity of this node; by default /etc/machine-id."""
    simulated: bool = False
    """The meters that it reads are simulated: whatever shows them says so. GPUs and energy of this machine are then
    left alone, and machine_id is the node's name too."""
    tick_s: Annotated[float, Meta(ge=0.05, le=30)] = 1.0
    window_s: Annotated[int, Meta(ge=1, le=60)] = 10
    health_s: Annotated[float, Meta(ge=1, le=3_600)] = 60.0
    """Interval of the slow readings: ECC, row remap, processes, inventory with MIG layout."""
    discover: tuple[Literal["processes", "slurm", "kubernetes"], ...] = ("processes",)
    """How GPUs are found to serve a deployment, where neither [[engines]] nor [[assignments]] say so: the processes of
    an engine on this node; the Slurm job or Kubernetes pod that a GPU is given to, whose name is the deployment's."""
    spool_max_mib: Annotated[int, Meta(ge=1, le=1_000_000)] = 512
    spool_max_age_h: Annotated[float, Meta(gt=0, le=8_760)] = 72.0

    def __post_init__(self) -> None:
        """Check what no single bound can say."""
        if self.window_s not in WINDOW_LENGTHS_S:
            allowed = ", ".join(map(str, WINDOW_LENGTHS_S))
            raise ValueError(f"window_s must divide a minute: one of {allowed}")


class Engine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An inference engine whose metrics the node agent reads: one [[engines]] for each, as many as there are."""

    url: Annotated[str, Meta(pattern=r"^https?://[^/?#@]+([/?#]|$)")]
    """Address of its metrics, such as http://127.0.0.1:8000/metrics, without user and password;
    `gigawatch engines list` says what is usual."""
    deployment: Name
    """Name of the deployment that it serves, the same on all nodes that do."""
    engine: Name | None = None
    """What it is, as `gigawatch engines list` names it; else it is recognised by its metrics."""
    model: Name | None = None
    """Name of its model, where the engine does not tell."""
    role: Role = Role.BOTH
    """What of serving it does, where prefill and decode run apart."""
    gpus: tuple[Annotated[int, Meta(ge=0, le=1_023)] | Identity, ...] = ()
    """Indexes or UUIDs of this node's GPUs that it runs on."""
    interval_s: Annotated[float, Meta(ge=0.1, le=60)] = 5.0
    """Interval of the readings, s."""


class GpuAssignment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """GPUs of this node that serve a deployment whose engine is on another node: one [[assignments]] for each."""

    deployment: Name
    """Name of the deployment, as on the node of its engine."""
    role: Role = Role.BOTH
    """What of serving they do, where prefill and decode run apart."""
    gpus: Annotated[tuple[Annotated[int, Meta(ge=0, le=1_023)] | Identity, ...], Meta(min_length=1)]
    """Indexes or UUIDs of this node's GPUs."""


class Meter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A meter of the facility that this agent reads: one [[meters]] for each, as many as there are."""

    name: Name
    """Its name in the site's topology."""
    driver: Literal["modbus", "snmp", "redfish", "mqtt", "prometheus", "ipmi"]
    """How it is read."""
    address: Name
    """Where it is: HOST or HOST:PORT of modbus, snmp, mqtt and ipmi (`local` of ipmi: this machine; `mqtts://HOST` of
    mqtt: encrypted), a URL of redfish and prometheus."""
    map: Name
    """What its registers or values mean: a name from `gigawatch meter maps`, or the path of a file of your own."""
    index: dict[Name, str | int] = {}
    """Which of several it is, by the map's words: `{unit = 3}` of a Modbus line, `{outlet = 12}` of a PDU, …"""
    user: Name | None = None
    """Name to log in with; of SNMP version 3 the security name."""
    secret_file: str | None = None
    """File that holds the password on its only line; of SNMP version 2c the community, by default public."""
    ca_file: str | None = None
    """Certificates to trust for https and mqtts, where the system's are not enough."""
    rated_kw: Annotated[float, Meta(gt=0, le=2_000_000)] | None = None
    """Most power that can flow through it, kW: what it tells beyond 1.2 times that is refused."""
    rated_m3_h: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    """Greatest flow through it, m³/h (Q4 of ISO 4064, 1.25 times the Q3 on its dial): a register of volume that grows
    faster than 1.2 times that is doubted."""
    both_ways: bool = False
    """Energy may flow back through it, as where a site exports: power below 0 is then no fault."""
    interval_s: Annotated[float, Meta(ge=1, le=3_600)] = 10.0
    """Interval of the readings, s."""
    timeout_s: Annotated[float, Meta(ge=0.1, le=60)] = 4.0
    """How long an answer may take, s."""


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HTTP API, `gigawatch serve`."""

    host: str = "127.0.0.1"
    port: Port = 8600
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    max_body_mib: Annotated[int, Meta(ge=1, le=1_024)] = 16
    """Greatest size of one request's body, after decompression."""
    gather_ms: Annotated[int, Meta(ge=0, le=1_000)] = 50
    """How long arriving batches are gathered into one COPY; 5 ms at most where they come one at a time."""
    max_waiting_mib: Annotated[int, Meta(ge=1, le=65_536)] = 64
    """Batches that wait to be stored, in each process; beyond it agents are asked to come again."""
    scheduler: bool = True
    """Take part in folding and removing old data: one process of all that do leads."""
    max_clock_offset_s: Annotated[float, Meta(ge=2, le=86_400)] = 300.0
    """A node whose clock is further off is refused."""


class Relay(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A relay for the agents of a rack or a row, `gigawatch collect --relay`."""

    host: str = "127.0.0.1"
    port: Port = 8602
    max_body_mib: Annotated[int, Meta(ge=1, le=1_024)] = 16
    """Greatest size of one request's body, after decompression; no more than the server's."""
    forward_ms: Annotated[int, Meta(ge=0, le=60_000)] = 250
    """How long batches are gathered into one request to the server."""
    forward_batches: Annotated[int, Meta(ge=1, le=10_000)] = 2_000
    """Most batches in one request to the server."""
    spool_max_mib: Annotated[int, Meta(ge=1, le=100_000_000)] = 4_096
    spool_max_age_h: Annotated[float, Meta(gt=0, le=8_760)] = 72.0


class Dashboard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The web app, `gigawatch dashboard`."""

    host: str = "127.0.0.1"
    port: Port = 8601
    refresh_s: Annotated[float, Meta(ge=1, le=3_600)] = 10.0
    open_access: bool = False
    """Let everybody on this machine in without a token; for a demo, and only on a loopback address."""


class Alerts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Alerts: what the server's scheduler evaluates and sends. Rules, routes and targets: `gigawatch alert apply`."""

    enabled: bool = True
    """Evaluate rules and tell targets: by the process that leads."""
    external_url: Annotated[str, Meta(pattern=r"^https?://[^/?#@]+(/[^?#]*)?$")] | None = None
    """Address of the dashboard as people reach it, for links in notifications."""
    allow_targets: tuple[str, ...] = ()
    """Networks (10.0.0.0/8) and host names that targets may have although they are loopback, link-local or otherwise
    special addresses, which else are refused."""
    secrets_dir: Annotated[str, Meta(min_length=1)] = "/etc/gigawatch/alerts"
    """Folder of the files that targets name: their keys, URLs and certificates. Of no other is any read."""
    rule_timeout_s: Annotated[float, Meta(ge=0.1, le=600)] = 10.0
    """How long the evaluation of one rule may take."""
    rule_database_url: str | None = None
    """Where rules are run, as postgresql://user:password@host:port/database: a login of role gigawatch_report alone; by
    default that which `gigawatch migrate` made."""
    rule_max_rows: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """A rule that gives more rows than this fails: none of them becomes an alert."""
    delivery_timeout_s: Annotated[float, Meta(ge=0.5, le=120)] = 10.0
    """How long a target may take to answer."""
    give_up_after_h: Annotated[float, Meta(gt=0, le=720)] = 24.0
    """When a notification that could not be delivered is put aside as dead."""
    resolved_d: Annotated[float, Meta(ge=1, le=36_525)] | None = 365.0
    """How long ended alerts, their notifications and silences are kept, days (repetitions 7 at most); without a number
    for ever."""


class Retention(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long data are kept, in days; without a number for ever."""

    windows_d: Annotated[float, Meta(ge=1, le=36_525)] | None = 7.0
    """Windows as they were measured; older ones are no longer taken from agents."""
    minutes_d: Annotated[float, Meta(ge=1, le=36_525)] | None = 90.0
    """Rollups by the minute, with each site's power by the second."""
    hours_d: Annotated[float, Meta(ge=1, le=36_525)] | None = None
    """Rollups by the hour."""
    days_d: Annotated[float, Meta(ge=1, le=36_525)] | None = None
    """Rollups by the day."""
    events_d: Annotated[float, Meta(ge=1, le=36_525)] | None = None
    """Events and slow readings."""
    compress_after_h: Annotated[float, Meta(ge=1, le=876_600)] = 6.0
    """When windows and rollups are compressed, hours after the end of their chunk, where the database can do it
    (TimescaleDB, community edition). Data that come later are taken, at more cost."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings, a section for each part."""

    store: Store = Store()
    agent: Agent = Agent()
    engines: tuple[Engine, ...] = ()
    assignments: tuple[GpuAssignment, ...] = ()
    meters: tuple[Meter, ...] = ()
    server: Server = Server()
    relay: Relay = Relay()
    dashboard: Dashboard = Dashboard()
    retention: Retention = Retention()
    alerts: Alerts = Alerts()


def load(
    path: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The settings in force.

    Args:
        path: the file to read in place of the usual places; it must exist.
        flags: "section.key" to value; None values are passed over.
        environment: by default this process's.

    Raises:
        GigawatchError: a file cannot be read, or a key is unknown or has an impossible value.
    """
    environment = os.environ if environment is None else environment
    if path is None and environment.get("GIGAWATCH_CONFIG"):
        path = Path(environment["GIGAWATCH_CONFIG"])
    if path is None:
        path = next((place for place in PLACES if place.is_file()), None)
    tree = _read(path) if path else {}
    for section, content in tree.items():
        _check(section, content, f"{path}")
    for name, text in environment.items():
        section, separator, key = name.removeprefix("GIGAWATCH_").lower().partition("__")
        if name.startswith("GIGAWATCH_") and separator:
            _check(section, {key: text}, f"environment variable {name}")
            tree.setdefault(section, {})[key] = text
    for flag, value in (flags or {}).items():
        if value is not None:
            section, _, key = flag.partition(".")
            tree.setdefault(section, {})[key] = value
    return msgspec.convert(tree, Settings, strict=False)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise GigawatchError(
            f"The configuration file {path} cannot be read: {error}",
            "Mend it, or name another with --config.",
            ExitCode.CONFIGURATION,
        ) from error


def _check(section: str, content: Any, source: str) -> None:
    """Refuse a section or key that does not exist or has an impossible value, naming its source."""
    sections = {field.name: field.type for field in msgspec.structs.fields(Settings)}
    if section not in sections:
        raise _unknown(source, "section", section, list(sections))
    if get_origin(sections[section]) is tuple:
        _check_tables(section, content, source, get_args(sections[section])[0])
        return
    known = [field.name for field in msgspec.structs.fields(sections[section])]
    if not isinstance(content, dict):
        raise GigawatchError(
            f"{source}: [{section}] is {content!r}, and a section was expected",
            f"Write [{section}] on a line of its own, and its keys below.",
            ExitCode.CONFIGURATION,
        )
    for key, value in content.items():
        if key not in known:
            raise _unknown(source, f"key in [{section}]", key, known)
        try:
            msgspec.convert({key: value}, sections[section], strict=False)
        except msgspec.ValidationError as error:
            shown = "(hidden)" if key in {"token", "database_url", "rule_database_url"} else repr(value)
            raise GigawatchError(
                f"{source}: {section}.{key} = {shown}: {str(error).partition(' - at ')[0]}",
                "docs/configuration.md lists the keys with their ranges.",
                ExitCode.CONFIGURATION,
            ) from error


def _check_tables(section: str, content: Any, source: str, kind: type[Struct]) -> None:
    """Refuse a wrong table of a section that there may be many of."""
    if not isinstance(content, list) or not all(isinstance(table, dict) for table in content):
        raise GigawatchError(
            f"{source}: {section} wants tables in the settings file, one [[{section}]] for each",
            f"Write [[{section}]] on a line of its own, and its keys below.",
            ExitCode.CONFIGURATION,
        )
    known = [field.name for field in msgspec.structs.fields(kind)]
    for number, table in enumerate(content, 1):
        name = f"[[{section}]] number {number}"
        for key in table:
            if key not in known:
                raise _unknown(source, f"key in {name}", key, known)
        try:
            msgspec.convert(table, kind, strict=False)
        except msgspec.ValidationError as error:
            problem, _, place = str(error).partition(" - at `$.")
            key = place.partition("[")[0].rstrip("`")
            value = table.get(key)
            shown = "(hidden)" if key == "url" and "@" in str(value) else repr(value)
            raise GigawatchError(
                f"{source}: {name}: {f'{key} = {shown}: ' if key else ''}{problem}",
                "docs/configuration.md lists the keys with their ranges.",
                ExitCode.CONFIGURATION,
            ) from error


def _unknown(source: str, kind: str, name: str, known: list[str]) -> GigawatchError:
    near = get_close_matches(name, known, n=1)
    return GigawatchError(
        f"{source}: unknown {kind}: {name!r}",
        f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(known)}.",
        ExitCode.CONFIGURATION,
    )
