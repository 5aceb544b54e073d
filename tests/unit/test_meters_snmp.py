"""PDUs and UPSes are read over SNMP 2c and 3 from net-snmp's agent, and whatever else answers is refused."""

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Thread

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.meters import maps
from collector.meters.maps import SnmpMap, SnmpValue
from collector.meters.reading import Denied, MeterProblem, Reading
from collector.meters.snmp import SnmpDriver
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter
from tests.meters import SnmpAgent

KWH_MJ = 3_600_000_000
AUTH_KEY, PRIV_KEY = "a pass phrase", "another phrase"
AUTH = ("MD5", "SHA", "SHA224", "SHA256", "SHA384", "SHA512")
PRIV = ("DES", "AES", "AES192", "AES256")
Values = Mapping[str, tuple[str, object]]


def net_snmp_users() -> str:
    """A user for each way of version 3, with the names that net-snmp has for them."""
    lines = [f'createUser auth SHA "{AUTH_KEY}"\nrouser auth auth\n']
    for auth in AUTH:
        for priv in PRIV:
            names = (auth.replace("SHA", "SHA-", auth != "SHA"), priv.replace("AES1", "AES-1").replace("AES2", "AES-2"))
            lines.append(f'createUser {auth}-{priv} {names[0]} "{AUTH_KEY}" {names[1]} "{PRIV_KEY}"\n')
            lines.append(f"rouser {auth}-{priv} priv\n")
    return "".join(lines)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnmpAgent]:
    """An agent of all versions and users."""
    it = SnmpAgent(tmp_path_factory.mktemp("snmp"), net_snmp_users())
    it.start()
    yield it
    it.stop()


def meter(port: int, **changes: object) -> Meter:
    """The settings of a meter on a port of this machine."""
    given = {"name": "m", "driver": "snmp", "address": f"127.0.0.1:{port}", "map": "m", "timeout_s": 10.0, **changes}
    return Meter(**given)


def prefixed(prefix: str, values: Values) -> Values:
    return {f"{prefix}.{oid}": value for oid, value in values.items()}


APC, SENTRY, RARITAN = "1.3.6.1.4.1.318.1.1.26", "1.3.6.1.4.1.1718.4.1", "1.3.6.1.4.1.13742.6"
GEIST, UPS = "1.3.6.1.4.1.21239.5.2.3", "1.3.6.1.2.1.33.1"

# By map: its index, what an agent has, and what that says.
SHIPPED: dict[str, tuple[dict[str, str | int], Values, Reading]] = {
    # 0.1 kWh, 0.01 kW, 0.1 A of as many phases as there are.
    "apc-rpdu2": (
        {},
        prefixed(APC, {
            "4.3.1.9.1": ("integer", 170_982), "4.3.1.5.1": ("integer", 412), "4.2.1.7.1": ("integer", 3),
            "6.3.1.5.1": ("gauge", 31), "6.3.1.5.2": ("gauge", 51), "6.3.1.5.3": ("gauge", 41),
            "6.3.1.5.4": ("gauge", 99), "2.1.9.1": ("string", "ZA0930012345"),
        }),
        Reading(at_s=0, energy_mj=170_982 * KWH_MJ // 10, power_mw=4_120_000, current_ma=5_100,
                identity="ZA0930012345"),
    ),
    "apc-rpdu2-linked": (
        {"module": 3},
        prefixed(APC, {"4.3.1.9.3": ("integer", 1), "4.3.1.5.3": ("integer", 2), "2.1.9.3": ("string", "ZA3")}),
        Reading(at_s=0, energy_mj=KWH_MJ // 10, power_mw=20_000, identity="ZA3"),
    ),
    "apc-rpdu2-outlet": (
        {"outlet": 24},
        prefixed(APC, {
            "9.4.3.1.11.24": ("integer", 5_001), "9.4.3.1.7.24": ("integer", 350), "9.4.3.1.6.24": ("integer", 15),
            "2.1.9.1": ("string", "ZA1"),
        }),
        Reading(at_s=0, energy_mj=5_001 * KWH_MJ // 10, power_mw=350_000, current_ma=1_500, identity="ZA1"),
    ),
    # Digits behind the point are asked for: 3 of a current, none of W and Wh.
    "raritan-px": (
        {"inlet": 1},
        prefixed(RARITAN, {
            "5.2.3.1.4.1.1.8": ("gauge", 4_294_967_295), "3.3.4.1.7.1.1.8": ("gauge", 0),
            "5.2.3.1.2.1.1.8": ("integer", 1), "5.2.3.1.4.1.1.5": ("gauge", 7_213), "3.3.4.1.7.1.1.5": ("gauge", 0),
            "5.2.3.1.2.1.1.5": ("integer", 1), "5.2.3.1.4.1.1.1": ("gauge", 10_427), "3.3.4.1.7.1.1.1": ("gauge", 3),
            "5.2.3.1.2.1.1.1": ("integer", 1), "3.2.1.1.4.1": ("string", "QFC3950619"),
        }),
        Reading(at_s=0, energy_mj=4_294_967_295 * 3_600_000, power_mw=7_213_000, current_ma=10_427,
                identity="QFC3950619"),
    ),
    "raritan-px-outlet": (
        {"pdu": 2, "outlet": 7},
        prefixed(RARITAN, {
            "5.4.3.1.4.2.7.8": ("gauge", 100), "3.5.4.1.7.2.7.8": ("gauge", 1), "5.4.3.1.2.2.7.8": ("integer", 1),
            "5.4.3.1.4.2.7.5": ("gauge", 80), "3.5.4.1.7.2.7.5": ("gauge", 0), "5.4.3.1.2.2.7.5": ("integer", 1),
            "5.4.3.1.4.2.7.1": ("gauge", 350), "3.5.4.1.7.2.7.1": ("gauge", 3), "5.4.3.1.2.2.7.1": ("integer", 1),
            "3.2.1.1.4.2": ("string", "PX2"),
        }),
        Reading(at_s=0, energy_mj=10 * 3_600_000, power_mw=80_000, current_ma=350, identity="PX2"),
    ),
    "servertech-sentry4": (
        {"cord": 2},
        prefixed(SENTRY, {
            "3.3.1.10.1.2": ("integer", 123_456), "3.3.1.3.1.2": ("integer", 10_800), "3.2.1.20.1.2": ("integer", 2),
            "4.3.1.3.1.2.1": ("integer", 1_500), "4.3.1.3.1.2.2": ("integer", 1_234),
        }),
        Reading(at_s=0, energy_mj=123_456 * KWH_MJ // 10, power_mw=10_800_000, current_ma=15_000),
    ),
    "vertiv-geist": (
        {},
        prefixed(GEIST, {
            "1.1.12.1": ("gauge", 9_999_000), "1.1.9.1": ("gauge", 3_300), "1.1.2.1": ("string", "0000777654567777"),
        }),
        Reading(at_s=0, energy_mj=9_999_000 * 3_600_000, power_mw=3_300_000, identity="0000777654567777"),
    ),
    # W and 0.1 A of as many lines as there are.
    "ups-rfc1628": (
        {},
        prefixed(UPS, {
            "4.3.0": ("integer", 3), "4.4.1.4.1": ("integer", 40_000), "4.4.1.4.2": ("integer", 39_000),
            "4.4.1.4.3": ("integer", 41_500), "4.4.1.3.1": ("integer", 1_740), "4.4.1.3.2": ("integer", 1_700),
            "4.4.1.3.3": ("integer", 1_805),
        }),
        Reading(at_s=0, power_mw=120_500_000, current_ma=180_500),
    ),
    "ups-rfc1628-input": (
        {},
        prefixed(UPS, {
            "3.2.0": ("integer", 1), "3.3.1.5.1": ("integer", 4_100), "3.3.1.4.1": ("integer", 182),
        }),
        Reading(at_s=0, power_mw=4_100_000, current_ma=18_200),
    ),
}  # fmt: skip


def test_every_shipped_map_is_read() -> None:
    assert set(SHIPPED) == {name for name, it in maps.maps().items() if isinstance(it, SnmpMap)}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_map(name: str, agent: SnmpAgent) -> None:
    index, values, expected = SHIPPED[name]
    agent.serve(values)
    driver = SnmpDriver(meter(agent.port, index=index), maps.load(name))
    told = driver.read()
    assert driver.read().at_s >= told.at_s
    driver.close()
    assert msgspec.structs.replace(told, at_s=0, raws={}) == expected


def user(folder: Path, name: str, **keys: str) -> dict[str, str]:
    """The settings of a user of version 3 with these keys."""
    path = folder / "secret.toml"
    path.write_text("".join(f'{key} = "{value}"\n' for key, value in keys.items()))
    return {"user": name, "secret_file": str(path)}


@pytest.mark.parametrize("priv", PRIV)
@pytest.mark.parametrize("auth", AUTH)
def test_version_3(auth: str, priv: str, agent: SnmpAgent, tmp_path: Path) -> None:
    _, values, expected = SHIPPED["ups-rfc1628"]
    agent.serve(values)
    keys = {"auth_protocol": auth, "auth_key": AUTH_KEY, "priv_protocol": priv, "priv_key": PRIV_KEY}
    driver = SnmpDriver(meter(agent.port, **user(tmp_path, f"{auth}-{priv}", **keys)), maps.load("ups-rfc1628"))
    told = [driver.read(), driver.read()]
    driver.close()
    # Closed, it opens again.
    told.append(driver.read())
    driver.close()
    assert [msgspec.structs.replace(it, at_s=0, raws={}) for it in told] == [expected] * 3


def test_version_3_without_privacy(agent: SnmpAgent, tmp_path: Path) -> None:
    agent.serve(SHIPPED["ups-rfc1628"][1])
    driver = SnmpDriver(meter(agent.port, **user(tmp_path, "auth", auth_key=AUTH_KEY)), maps.load("ups-rfc1628"))
    assert driver.read().power_mw == 120_500_000
    driver.close()


@pytest.mark.parametrize(
    ("name", "keys", "problem", "remedy"),
    [
        ("nobody", {"auth_key": AUTH_KEY, "priv_key": PRIV_KEY}, "Unknown USM user", "Check user"),
        ("SHA-AES", {"auth_key": "not " + AUTH_KEY, "priv_key": PRIV_KEY}, "Wrong SNMP PDU digest", "auth_key"),
        ("SHA256-AES", {"auth_key": AUTH_KEY, "priv_key": PRIV_KEY}, "Wrong SNMP PDU digest", "auth_protocol"),
        # An agent cannot tell a wrong key of AES from no SNMP, and is silent.
        ("SHA-AES", {"auth_key": AUTH_KEY, "priv_key": "not " + PRIV_KEY}, "no answer within", "wrong priv_key"),
        ("SHA-AES", {"auth_key": AUTH_KEY}, "authorizationError is the answer", "the user with these keys"),
    ],
)
def test_version_3_with_wrong_keys(
    name: str, keys: dict[str, str], problem: str, remedy: str, agent: SnmpAgent, tmp_path: Path
) -> None:
    waits = {"timeout_s": 1.0} if "no answer" in problem else {}
    settings_ = meter(agent.port, **waits, **user(tmp_path, name, **keys))
    with pytest.raises(MeterProblem, match=problem) as raised:
        SnmpDriver(settings_, maps.load("ups-rfc1628")).read()
    assert raised.value.problem.startswith(f"SNMP meter 127.0.0.1:{agent.port}: ")
    assert remedy in raised.value.remedy
    # Where it tells, so as not to lock the account.
    assert isinstance(raised.value, Denied) == ("user" in problem or "digest" in problem)


def test_an_agent_that_is_replaced(tmp_path: Path) -> None:
    """Another engine answers at the same place, with the same user: at the second reading at the latest it is read."""
    values = SHIPPED["ups-rfc1628"][1]
    first = SnmpAgent(tmp_path / "first", net_snmp_users())
    first.start()
    first.serve(values)
    keys = user(tmp_path, "SHA-AES", auth_key=AUTH_KEY, priv_key=PRIV_KEY)
    driver = SnmpDriver(meter(first.port, timeout_s=4.0, **keys), maps.load("ups-rfc1628"))
    assert driver.read().power_mw == 120_500_000
    first.stop()
    with pytest.raises(MeterProblem, match="no answer within 4 s"):
        driver.read()
    second = SnmpAgent(tmp_path / "second", net_snmp_users(), first.port)
    second.start()
    second.serve(values)
    assert driver.read().power_mw == 120_500_000
    second.stop()
    third = SnmpAgent(tmp_path / "third", net_snmp_users(), first.port)
    third.start()
    third.serve(values)
    with suppress(MeterProblem):
        driver.read()
    assert driver.read().power_mw == 120_500_000
    driver.close()
    third.stop()


def test_the_community_is_the_secret(agent: SnmpAgent, tmp_path: Path) -> None:
    agent.serve(SHIPPED["ups-rfc1628"][1])
    path = tmp_path / "community"
    path.write_text("public\n")
    driver = SnmpDriver(meter(agent.port, secret_file=str(path)), maps.load("ups-rfc1628"))
    assert driver.read().power_mw == 120_500_000
    path.write_text("private\n")
    driver = SnmpDriver(meter(agent.port, secret_file=str(path), timeout_s=0.5), maps.load("ups-rfc1628"))
    with pytest.raises(MeterProblem, match=r"no answer within 0\.5 s") as raised:
        driver.read()
    assert "wrong community in secret_file" in raised.value.remedy


def test_unknown_values_are_refused(agent: SnmpAgent) -> None:
    values = dict(SHIPPED["apc-rpdu2"][1]) | {
        f"{APC}.4.3.1.5.1": ("integer", -1), f"{APC}.6.3.1.5.2": ("gauge", 4_294_967_295),
        f"{APC}.2.1.9.1": ("string", ""),
    }  # fmt: skip
    agent.serve(values)
    told = SnmpDriver(meter(agent.port, rated_kw=11), maps.load("apc-rpdu2")).read()
    assert (told.energy_mj, told.power_mw, told.identity) == (170_982 * KWH_MJ // 10, None, None)
    assert told.refused == (
        "power: '-1': the meter says by it that it has no value",
        "currents: 31, 4294967295, 41: no meter can have that",
    )


def test_objects_that_are_not_there_are_named(agent: SnmpAgent) -> None:
    values = dict(SHIPPED["apc-rpdu2"][1])
    del values[f"{APC}.4.3.1.9.1"], values[f"{APC}.6.3.1.5.2"]
    agent.serve(values)
    told = SnmpDriver(meter(agent.port), maps.load("apc-rpdu2")).read()
    assert (told.energy_mj, told.power_mw, told.current_ma) == (None, 4_120_000, None)
    energy, currents = told.refused
    assert energy.startswith(f"energy: the agent has no OID {APC}.4.3.1.9.1; check index")
    assert currents.startswith(f"currents: the agent has no OID {APC}.6.3.1.5.2; ")
    del values[f"{APC}.4.2.1.7.1"]
    agent.serve(values)
    told = SnmpDriver(meter(agent.port), maps.load("apc-rpdu2")).read()
    assert told.refused[1].startswith(f"currents: the agent has no OID {APC}.4.2.1.7.1; ")
    agent.serve({})
    with pytest.raises(MeterProblem, match="tells nothing that can be: energy: the agent has no OID"):
        SnmpDriver(meter(agent.port), maps.load("apc-rpdu2")).read()


@pytest.mark.parametrize("rows", [("integer", 0), ("integer", -3), ("integer", 65), ("string", "three")])
def test_tables_of_impossible_length(rows: tuple[str, object], agent: SnmpAgent) -> None:
    agent.serve(dict(SHIPPED["apc-rpdu2"][1]) | {f"{APC}.4.2.1.7.1": rows})
    told = SnmpDriver(meter(agent.port), maps.load("apc-rpdu2")).read()
    assert told.power_mw == 4_120_000
    assert told.refused == (f"currents: OID {APC}.4.2.1.7.1 says that the table has {str(rows[1])!r} rows",)


def test_sensors_that_are_not_available(agent: SnmpAgent) -> None:
    values = dict(SHIPPED["raritan-px"][1]) | {
        f"{RARITAN}.5.2.3.1.2.1.1.5": ("integer", 2), f"{RARITAN}.3.3.4.1.7.1.1.1": ("gauge", 40),
    }  # fmt: skip
    del values[f"{RARITAN}.3.3.4.1.7.1.1.8"]
    agent.serve(values | {f"{RARITAN}.5.2.3.1.4.1.1.9": ("integer", 1)})
    with pytest.raises(MeterProblem) as raised:
        SnmpDriver(meter(agent.port), maps.load("raritan-px")).read()
    assert f"energy: the agent has no OID {RARITAN}.3.3.4.1.7.1.1.8" in raised.value.problem
    assert f"power: the agent says by OID {RARITAN}.5.2.3.1.2.1.1.5 that it has no value" in raised.value.problem
    assert "currents: '10427' with '40' decimals: it is no number" in raised.value.problem


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("integer", -5, -5_000),
        ("gauge", 2**31, 2**31 * 1_000),
        ("counter", 7, 7_000),
        ("counter64", 1_000_000_007, 1_000_000_007_000),
        ("string", "12.5", 12_500),
    ],
)
def test_types(kind: str, value: object, expected: int, agent: SnmpAgent) -> None:
    agent.serve({f"{UPS}.1.0": (kind, value)})
    assert SnmpDriver(meter(agent.port), made(f"{UPS}.1.0")).read().power_mw == expected


@pytest.mark.parametrize(("kind", "value"), [("objectid", ".1.3.6.1"), ("string", "many"), ("ipaddress", "10.0.0.1")])
def test_types_that_are_no_numbers(kind: str, value: object, agent: SnmpAgent) -> None:
    agent.serve({f"{UPS}.1.0": (kind, value)})
    with pytest.raises(MeterProblem, match="no number"):
        SnmpDriver(meter(agent.port), made(f"{UPS}.1.0")).read()


def made(*oids: str) -> SnmpMap:
    """A map whose power is the sum of these, in W."""
    power = tuple(SnmpValue(oid=oid, unit="W") for oid in oids)
    return SnmpMap(name="made", title="Made", sources=("here",), readings={"power": power})


def test_more_oids_than_go_into_one_request(agent: SnmpAgent) -> None:
    agent.serve({f"{UPS}.{place}.0": ("integer", place) for place in range(1, 65)})
    told = SnmpDriver(meter(agent.port), made(*(f"{UPS}.{place}.0" for place in range(1, 65)))).read()
    assert told.power_mw == 64 * 65 // 2 * 1_000


def test_nobody_answers() -> None:
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as silent:
        silent.bind(("127.0.0.1", 0))
        driver = SnmpDriver(meter(silent.getsockname()[1], timeout_s=0.3), made(f"{UPS}.1.0"))
        with pytest.raises(MeterProblem, match=r"no answer within 0\.3 s"):
            driver.read()
    with pytest.raises(MeterProblem, match=r"it cannot be asked: \[Errno -\d\]"):
        SnmpDriver(meter(1, address="no-such-host.invalid"), made(f"{UPS}.1.0")).read()


@contextmanager
def peer(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """Something that answers each datagram so; yields its port."""
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as served:
        served.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                request, where = served.recvfrom(65_535)
                if not request:
                    return
                served.sendto(answer(request), where)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield served.getsockname()[1]
        with closing(socket.socket(type=socket.SOCK_DGRAM)) as end:
            end.sendto(b"", served.getsockname())
        thread.join()


def test_an_answer_to_another_question() -> None:
    """The request itself, made an answer of (0xa2 for 0xa0) with another OID."""

    def answer(request: bytes) -> bytes:
        return request.replace(b"\xa0", b"\xa2", 1).replace(b"\x01\x21\x01\x01", b"\x01\x21\x01\x02")

    with peer(answer) as port, pytest.raises(MeterProblem, match="its answer is to other OIDs"):
        SnmpDriver(meter(port), made(f"{UPS}.1.0")).read()


@settings(max_examples=40)
@given(junk=st.binary(max_size=60), at=st.integers(0, 60), version_3=st.booleans())
def test_no_answer_breaks_the_driver(
    junk: bytes, at: int, version_3: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever comes back, it is a reading or a MeterProblem."""
    keys = user(tmp_path_factory.getbasetemp(), "SHA-AES", auth_key=AUTH_KEY) if version_3 else {}
    with peer(lambda request: request[:at].replace(b"\xa0", b"\xa2", 1) + junk + request[at + len(junk) :]) as port:
        driver = SnmpDriver(meter(port, timeout_s=0.05, **keys), made(f"{UPS}.1.0"))
        with suppress(MeterProblem):
            assert driver.read().power_mw is not None
        driver.close()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"auth_key", "it is no TOML"),
        (b"", "auth_key"),
        (b"auth_key = 'short'", "auth_key"),
        (b"auth_key = 'long enough'\npriv_protocol = 'ROT13'", "priv_protocol"),
        (b"auth_key = 'long enough'\npassword = 'x'", "password"),
    ],
)
def test_secrets_that_cannot_be(text: bytes | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(GigawatchError) as raised:
        SnmpDriver(meter(161, user="gw", secret_file=str(path)), made("1.3"))
    assert problem in raised.value.problem
    assert "short" not in raised.value.problem
    assert raised.value.exit_code == ExitCode.CONFIGURATION


@pytest.mark.parametrize("outlet", ["7.x", "-1", "", "4294967296", "1.", "../1"])
def test_an_index_that_makes_no_oid(outlet: str) -> None:
    with pytest.raises(GigawatchError, match="which is none"):
        SnmpDriver(meter(161, index={"outlet": outlet}), maps.load("apc-rpdu2-outlet"))
