"""Reads meters that send messages by MQTT: the newest message of each topic is what the meter tells.

A reading is of the moment when the message with the register came. Where none came since the last reading, the same
reading is handed out again, and after three intervals there is none: a meter that sends nothing is silent. A retained
message, which the broker keeps, is of an age that nobody knows, and tells no more than who the meter is.
"""

import secrets
import socket
import threading
import time
from ssl import SSLError

from msgspec import Struct
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from collector.meters.access import certificates, login, place
from collector.meters.document import decode, find, scalar
from collector.meters.endpoint import Endpoint
from collector.meters.maps import Figure, MqttMap, MqttValue, Raw, Refused, fill, reading
from collector.meters.reading import Denied, MeterProblem, Reading
from collector.names import look_up
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter

KEEPALIVE_S = 30
MOST_BYTES = 65_536
INTERVALS = 3
LOGIN_REFUSED = {"Bad user name or password", "Not authorized"}
LEADS: tuple[Figure, ...] = ("energy", "volume", "power", "temperature", "currents")
"""Which figure's message says when the reading is of."""


class _Message(Struct, frozen=True):
    """The newest message of a topic."""

    content: bytes | None
    """None: it was too long."""
    at_s: float
    """When it came, by the monotonic clock."""
    retained: bool


class _Link(threading.Thread):
    """One connection to a broker, in a thread of its own until it ends; it is not made again."""

    def __init__(self, settings: Meter, scheme: str, at: Endpoint, topics: tuple[str, ...]) -> None:
        super().__init__(name=f"mqtt of meter {settings.name}", daemon=True)
        self._at = at
        self._limit_s = settings.timeout_s
        self._topics = topics
        self.changed = threading.Condition()
        self.messages: dict[str, _Message] = {}
        self.problem: MeterProblem | None = None
        """Why it ended, or will tell nothing."""
        self.admitted = False
        """Whether the broker let us in."""
        self.began_s = time.monotonic()
        # Names of up to 23 characters are taken by every broker.
        self.client = Client(
            CallbackAPIVersion.VERSION2, client_id=f"gigawatch-{secrets.token_hex(6)}", reconnect_on_failure=False
        )
        self.client.connect_timeout = settings.timeout_s
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_message = self._on_message
        self.client.on_disconnect = self._on_disconnect
        self._login = login(settings)
        if self._login:
            self.client.username_pw_set(*self._login)
        if scheme == "mqtts":
            self.client.tls_set(ca_certs=certificates(settings))
        self.client.connect_async(at.host, at.port, KEEPALIVE_S)

    def run(self) -> None:
        """Take messages until the connection ends."""
        try:
            # paho would wait for it as long as name servers like.
            look_up(*self._at, socket.SOCK_STREAM, self._limit_s)
            self.client.loop_forever()
        except SSLError as error:
            self._fail(
                f"is not trusted: {error.reason or error}",
                "Set ca_file to the certificate of its issuer; the address must be one that the certificate names.",
            )
        except OSError as error:
            self._fail(f"cannot be reached: {error}", "Check the address, and that the broker runs.")
        except Exception as error:  # noqa: BLE001 # what a broker sends that is no MQTT makes paho fail in many ways
            self._fail(f"sends what is no MQTT ({type(error).__name__})", "Is this the address of a broker?")
        self._fail("ended the connection", "See the broker's log.")

    def _fail(self, problem: str, remedy: str, code: ExitCode = ExitCode.UNREACHABLE, *, denied: bool = False) -> None:
        problem = f"The broker {self._at} {problem}"
        with self.changed:
            # The first is the reason of all that follow.
            self.problem = self.problem or (Denied(problem, remedy) if denied else MeterProblem(problem, remedy, code))
            self.changed.notify_all()

    def _on_connect(
        self, client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            refused = reason.getName() in LOGIN_REFUSED
            remedy = "See the broker's log."
            if refused:
                remedy = f"{'Check' if self._login else 'Set'} user and secret_file."
            denied = refused and self._login is not None
            self._fail(f"does not let us in: {reason}", remedy, ExitCode.CONFIGURATION, denied=denied)
        else:
            self.admitted = True
            client.subscribe([(topic, 0) for topic in self._topics])

    def _on_subscribe(
        self, _client: Client, _data: object, _id: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        refused = [topic for topic, reason in zip(self._topics, reasons, strict=False) if reason.is_failure]
        if refused:
            self._fail(
                f"does not let us read {', '.join(refused)}",
                "Check what the broker allows this user to read.",
                ExitCode.CONFIGURATION,
            )

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        content = bytes(message.payload) if len(message.payload) <= MOST_BYTES else None
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        with self.changed:
            if topic in self._topics:
                self.messages[topic] = _Message(content, time.monotonic(), message.retain)
                self.changed.notify_all()

    def _on_disconnect(
        self, _client: Client, _data: object, _flags: DisconnectFlags, reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:  # fmt: skip
        self._fail(f"ended the connection: {reason}", "See the broker's log.")


class MqttDriver:
    """Reads one meter by its messages.

    Args:
        settings: of the meter.
        map_: what its messages mean.

    Raises:
        GigawatchError: settings and map do not fit, or a file that they name cannot be read.
    """

    def __init__(self, settings: Meter, map_: MqttMap) -> None:
        self._settings = settings
        self._map = map_
        self._words = map_.words(settings.index)
        self._scheme, self._at = place(settings, {"mqtt": 1883, "mqtts": 8883})
        if settings.ca_file and self._scheme != "mqtts":
            raise GigawatchError(
                f"The meter {settings.name} has ca_file, and its address is not encrypted",
                f"Write the address as mqtts://{self._at}, or leave ca_file out.",
                ExitCode.CONFIGURATION,
            )
        self._wanted = {(figure, self._topic(value)) for figure, values in map_.readings.items() for value in values}
        self._topics = tuple({topic for _, topic in self._wanted})
        if any(wildcard in topic for topic in self._topics for wildcard in "+#"):
            raise GigawatchError(
                f"The index of the meter {settings.name} makes the topics {', '.join(self._topics)}",
                "Name one topic: a meter is read from no wildcard.",
                ExitCode.CONFIGURATION,
            )
        lead = next(figure for figure in LEADS if figure in map_.readings)
        self._lead: Figure = lead
        self._lead_topics = sorted({self._topic(value) for value in map_.readings[lead]})
        self._link: _Link | None = None
        # Files that cannot be read are an error now, not when it first connects.
        login(settings)
        certificates(settings)

    def read(self) -> Reading:
        """The meter as it last told, at most three intervals ago.

        Raises:
            MeterProblem: the broker cannot be read, or no message came.
        """
        link = self._link
        if link is None:
            link = self._link = _Link(self._settings, self._scheme, self._at, self._topics)
            link.start()
            with link.changed:
                link.changed.wait_for(
                    lambda: (
                        link.problem
                        or all(self._usable(figure, link.messages.get(topic)) for figure, topic in self._wanted)
                    ),
                    self._settings.timeout_s,
                )
        with link.changed:
            problem, messages = link.problem, dict(link.messages)
        if problem is None and not link.admitted:
            problem = MeterProblem(
                f"The broker {self._at} does not answer within {self._settings.timeout_s:g} s",
                "Is this the address of a broker, and with mqtts:// where it wants that? A firewall that drops packets"
                " looks the same.",
            )
        if problem is not None:
            # The next reading connects anew.
            self.close()
            raise problem
        for topic in self._lead_topics:
            if not self._usable(self._lead, messages.get(topic)):
                raise self._silent(topic, messages.get(topic), time.monotonic() - link.began_s)
        return self._reading(messages)

    def close(self) -> None:
        """Give the connection back. It may be read again afterwards."""
        link, self._link = self._link, None
        if link is not None:
            link.client.disconnect()
            link.join(self._settings.timeout_s)

    def _reading(self, messages: dict[str, _Message]) -> Reading:
        raws: dict[Figure, list[Raw | Refused]] = {}
        at_s: dict[Figure, float] = {}
        for figure, values in self._map.readings.items():
            found = [messages.get(self._topic(value)) for value in values]
            usable = [it for it in found if it is not None and self._usable(figure, it)]
            told = [self._told(value, message) for value, message in zip(values, usable, strict=False)]
            if len(usable) == len(values) and all(it is not None for it in told):
                raws[figure] = [it for it in told if it is not None]
                at_s[figure] = max(it.at_s for it in usable)
        if not raws.keys() - {"identity"}:
            raise MeterProblem(
                f"The messages on {', '.join(self._topics)} have none of the figures of the map {self._map.name}",
                "Look at a message, and take the map of the device that sends it.",
                ExitCode.DATA,
            )
        moment_s = at_s.get(self._lead) or max(it for figure, it in at_s.items() if figure != "identity")
        return reading(self._map, raws, moment_s, self._settings.rated_kw)

    def _told(self, value: MqttValue, message: _Message) -> Raw | Refused | None:
        """What a message says; None where it does not tell."""
        if message.content is None:
            return Refused(f"the message is longer than {MOST_BYTES} bytes")
        try:
            if value.value is None:
                return message.content.decode("ascii")
            path = fill(value.value, self._words)
            found = find(decode(message.content), path)
            return None if found is None else scalar(found, path)
        except UnicodeDecodeError:
            return Refused(f"{message.content[:40]!r} is no number")
        except Refused as error:
            return error

    def _usable(self, figure: Figure, message: _Message | None) -> bool:
        """Whether a message tells a figure of now."""
        if message is None or figure == "identity":
            return message is not None
        return not message.retained and time.monotonic() - message.at_s <= INTERVALS * self._settings.interval_s

    def _silent(self, topic: str, message: _Message | None, since_s: float) -> MeterProblem:
        if message is None:
            problem = f"no message came on {topic} in the {since_s:.0f} s since we read the broker"
        elif message.retained:
            problem = f"a retained message alone came on {topic}, of an age that nobody knows"
        else:
            problem = f"the last message on {topic} came {time.monotonic() - message.at_s:.0f} s ago"
        return MeterProblem(
            f"{self._at}: {problem}",
            f"Check the topic and the index, and that the device sends at least once in interval_s"
            f" ({self._settings.interval_s:g} s).",
        )

    def _topic(self, value: MqttValue) -> str:
        return fill(value.topic, self._words)
