"""From the outbox to the targets: at least once, in order for each target, and none waits for another."""

import asyncio
import contextlib
import email.utils
import hashlib
import hmac
import logging
import os
import random
import re
import ssl
import stat
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import httpcore
import msgspec
import psycopg
import sqlalchemy
from msgspec import Struct
from sqlalchemy import Engine, text

import gigawatch
from api.alerts.configuration import Configuration, Target
from api.alerts.network import Guard, GuardedBackend, Place, Refused
from api.alerts.payloads import KINDS, SECRET_NEEDED, USUAL_URLS
from api.alerts.payloads.request import Impossible, NotYet, Request, Telling
from gigawatch.alerts.notification import Notification
from gigawatch.settings import Alerts

ANSWER_BYTES = 64 << 10
ANSWER_SHOWN = 500
"""Characters of an answer that are kept."""
MOST_SHOWN = 1_000
"""Characters of all that is said of an attempt."""
LONGEST_RETRY_AFTER_S = 3_600
SECRET_BYTES = 16 << 10
CERTIFICATES_BYTES = 1 << 20
TRY_AGAIN = frozenset({408, 425, 429})
"""Of the statuses 4xx, those after which the same request may succeed."""
UNKNOWN_ADDRESS = "unknown until its url_file can be read"
log = logging.getLogger(__name__)
# It tells headers, and paths of URLs may be secret.
logging.getLogger("httpcore").setLevel(logging.WARNING)


class Pace(Struct, frozen=True, kw_only=True):
    """How fast things are tried again; all in seconds."""

    look_every_s: float = 5.0
    """How often the outbox is looked at although nobody says that there is something in it."""
    backoff_s: float = 1.0
    """The first wait after a failure is up to this, doubled with each further one."""
    longest_backoff_s: float = 300.0
    breaker_failures: int = 5
    """So many failures in a row open a target's circuit breaker."""
    breaker_s: float = 30.0
    """For so long, doubled with each further failure."""
    longest_breaker_s: float = 600.0


class Undeliverable(Exception):
    """It could not be sent, and may be later; the message says why."""


class Credentials(Struct, frozen=True, kw_only=True):
    """What a target's files hold."""

    place: Place
    url: str
    secret: str | None
    bearer: str | None

    def hide(self, words: str) -> str:
        """The words without anything of it that is secret."""
        # What is short in a path is none, and would tear words apart.
        of_path = [it for it in (self.place.path, *re.split(r"[/?&=]", self.place.path)) if len(it) >= 6]
        secrets = {self.url, self.secret, self.bearer, *of_path} - {None}
        for secret in sorted(map(str, secrets), key=len, reverse=True):
            words = words.replace(secret, "***")
        return words


class Outcome(Struct, frozen=True, kw_only=True):
    """How an attempt went."""

    state: Literal["sent", "dead", "waiting"]
    """sent; dead, where it never could be; waiting, where it is tried again."""
    answer: str
    """What the target answered, or why it could not be asked."""
    status: int | None = None
    retry_after_s: float | None = None
    address: str | None = None


class Waiting(Struct, frozen=True, kw_only=True):
    """The oldest notification that a target waits for."""

    delivery_id: int
    key: uuid.UUID
    attempts: int
    wait_s: float
    """Until it is due."""
    notification: object
    """A Notification, as the store holds it."""


class Deliverer:
    """Sends what the outbox holds, in a thread of its own with a task for each target.

    Args:
        engine: of the store's owner.
        alerts: settings.
        configuration: whose targets there are; without one it waits for reload().
        pace: how fast things are tried again.

    Raises:
        GigawatchError: an entry of alerts.allow_targets is none.
    """

    def __init__(
        self,
        engine: Engine,
        alerts: Alerts,
        configuration: Configuration | None = None,
        *,
        pace: Pace | None = None,
    ) -> None:
        self._engine = engine
        self._alerts = alerts
        self._guard = Guard(alerts.allow_targets)
        self._pace = pace or Pace()
        self._configuration = configuration
        self._targets: dict[str, Target] | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wakes: dict[str, asyncio.Event] = {}
        self._changed: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alert-delivery", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, also amid an attempt: what was not sent by then will be sent by the next one."""
        self._stopping.set()
        self._tell(self._wake_main)
        self._thread.join()

    def reload(self, configuration: Configuration) -> None:
        """Serve the targets of another configuration. What waits for a target that is changed is tried at once."""
        self._configuration = configuration
        self._tell(self._wake_main)

    def wake(self) -> None:
        """Look at the outbox now."""
        self._tell(self._wake_all)

    def _tell(self, what: Callable[[], None]) -> None:
        # Before it runs it will look by itself, and after it has ended nobody is to look.
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(what)

    def _wake_main(self) -> None:
        assert self._changed is not None
        self._changed.set()

    def _wake_all(self) -> None:
        for wake in self._wakes.values():
            wake.set()

    def _run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        try:
            while not self._stopping.is_set():
                self._changed.clear()
                await self._keep_in_step()
                await _pass(self._changed, self._pace.look_every_s)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _keep_in_step(self) -> None:
        """Have a task and a row for each target of the configuration, and no other."""
        configuration, before = self._configuration, self._targets
        if configuration is None:
            return
        targets = configuration.targets
        changed = {name for name, it in targets.items() if before is not None and before.get(name) != it}
        ended = [name for name in self._tasks if targets.get(name) is None or name in changed]
        for name in ended:
            del self._wakes[name]
            task = self._tasks.pop(name)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        try:
            await asyncio.to_thread(_register, self._engine, targets, changed, self._alerts.secrets_dir)
        except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError) as error:
            log.warning("targets are registered when the database answers: %s", _first_line(error))
            return
        self._targets = targets
        for name, target in targets.items():
            if name not in self._tasks:
                self._wakes[name] = asyncio.Event()
                self._tasks[name] = asyncio.create_task(self._serve(name, target, self._wakes[name]))

    async def _serve(self, name: str, target: Target, wake: asyncio.Event) -> None:
        """Send a target all that waits for it, the oldest first."""
        while True:
            wake.clear()
            try:
                waiting = await asyncio.to_thread(_oldest, self._engine, name)
                if waiting is not None and waiting.wait_s <= 0:
                    await self._attempt(name, target, waiting)
                    continue
                wait_s = self._pace.look_every_s if waiting is None else waiting.wait_s
            except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError) as error:
                log.warning("target %s is served when the database answers: %s", name, _first_line(error))
                wait_s = self._pace.look_every_s
            except Exception as error:  # noqa: BLE001 # whatever it is, the target is served on
                # Its words may hold what is secret.
                log.error("target %s is served again soon: %s", name, type(error).__name__)
                wait_s = self._pace.look_every_s
            await _pass(wake, min(wait_s, self._pace.look_every_s))

    async def _attempt(self, name: str, target: Target, waiting: Waiting) -> None:
        # Full jitter: targets that failed together do not come back together.
        longest_s = min(self._pace.backoff_s * 2.0 ** min(waiting.attempts, 30), self._pace.longest_backoff_s)
        backoff_s = random.uniform(0, longest_s)  # noqa: S311 # no secret
        began_s = time.monotonic()
        # If we are killed from here on, the next attempt has the same key, and no haste.
        await asyncio.to_thread(_begin, self._engine, waiting.delivery_id, backoff_s)
        outcome = await self._send(target, waiting)
        outcome = msgspec.structs.replace(outcome, answer=_line(outcome.answer))
        duration_ms = round((time.monotonic() - began_s) * 1000)
        if outcome.state != "sent":
            log.warning("target %s: %s", name, outcome.answer)
        wait_s = backoff_s if outcome.retry_after_s is None else outcome.retry_after_s
        await asyncio.to_thread(
            _end, self._engine, name, waiting.delivery_id, outcome, duration_ms, wait_s, self._pace, self._alerts
        )

    async def _send(self, target: Target, waiting: Waiting) -> Outcome:
        """Make one attempt, and see how it went."""
        try:
            credentials = await asyncio.to_thread(read_credentials, target, self._alerts.secrets_dir)
            telling = Telling(
                notification=msgspec.convert(waiting.notification, Notification),
                target=target,
                url=credentials.url,
                secret=credentials.secret,
                now=datetime.now(UTC),
            )
            request = await asyncio.to_thread(KINDS[target.kind], telling)
        except (Undeliverable, NotYet) as error:
            return Outcome(state="waiting", answer=str(error))
        except Impossible as error:
            return Outcome(state="dead", answer=str(error))
        except Exception as error:  # noqa: BLE001 # one notification that cannot be told must not keep others back
            return Outcome(state="dead", answer=f"no {target.kind} payload could be made: {type(error).__name__}")
        outcome = await self._post(target, credentials, request, waiting.key)
        return msgspec.structs.replace(outcome, address=credentials.place.address)

    async def _post(self, target: Target, credentials: Credentials, request: Request, key: uuid.UUID) -> Outcome:
        status, answer, headers = None, b"", dict[str, str]()
        timeout_s = self._alerts.delivery_timeout_s
        try:
            context = await asyncio.to_thread(_tls, target, self._alerts.secrets_dir)
            async with (
                contextlib.aclosing(GuardedBackend(self._guard)) as backend,
                asyncio.timeout(timeout_s),
                httpcore.AsyncConnectionPool(ssl_context=context, network_backend=backend) as pool,
                pool.stream(
                    "POST",
                    # Of the payloads some have a path of their own below the target's.
                    Place(request.url).parsed,
                    headers=list(_headers(target, credentials, request, key).items()),
                    content=request.body,
                ) as response,
            ):
                status = response.status
                headers = {name.decode("latin-1").lower(): it.decode("latin-1") for name, it in response.headers}
                async for part in response.aiter_stream():
                    answer += part[: ANSWER_BYTES - len(answer)]
                    if len(answer) >= ANSWER_BYTES:
                        break
        except (Refused, Undeliverable) as error:
            return Outcome(state="waiting", answer=str(error))
        except Exception as error:  # noqa: BLE001 # whatever a peer brings about, the target is tried again later
            # Where the status is known the target has decided, whatever becomes of the rest.
            if status is None:
                words = credentials.hide(_in_words(error, credentials.place, timeout_s))
                return Outcome(state="waiting", answer=words)
        assert status is not None
        words = credentials.hide(_line(answer.decode(errors="replace"), ANSWER_BYTES))
        return _judge(status, headers, words[:ANSWER_SHOWN])


async def _pass(event: asyncio.Event, wait_s: float) -> None:
    """Wait for an event, or until the time is over."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), wait_s)


def read_credentials(target: Target, secrets_dir: str) -> Credentials:
    """A target's URL and secrets, from its files where it has any.

    Args:
        target: whose.
        secrets_dir: the folder of the files.

    Raises:
        Undeliverable: a file cannot be read or does not hold what it must, or there is no URL.
    """
    url = target.url or USUAL_URLS.get(target.kind)
    if target.url_file is not None:
        url = _secret("url_file", target.url_file, secrets_dir)
    if url is None:
        raise Undeliverable("the target has no URL: give it url or url_file")
    try:
        place = Place(url)
    except ValueError as error:
        raise Undeliverable(f"{error} ({f'file {target.url_file}' if target.url_file else 'url'})") from error
    if target.secret_file is None and target.kind in SECRET_NEEDED:
        raise Undeliverable(f"a target of kind {target.kind} needs its key: name the file that holds it as secret_file")
    return Credentials(
        place=place,
        url=url,
        secret=None if target.secret_file is None else _secret("secret_file", target.secret_file, secrets_dir),
        bearer=None if target.bearer_file is None else _secret("bearer_file", target.bearer_file, secrets_dir),
    )


def place_of(field: str, path: str, secrets_dir: str) -> Path:
    """Where a file of a target is. Who names it need not be who may read the server's files: in one folder alone.

    Raises:
        Undeliverable: it is elsewhere, or a link leads there.
    """
    try:
        folder = Path(secrets_dir).resolve()
        place = (folder / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise Undeliverable(f"{field} {path} cannot be read: {error}") from error
    if not place.is_relative_to(folder):
        raise Undeliverable(
            f"{field} {path} is not in {folder}, the folder of targets' files (alerts.secrets_dir): put it there"
        )
    return place


def _content(field: str, path: str, secrets_dir: str, most_bytes: int) -> bytes:
    place = place_of(field, path, secrets_dir)
    try:
        # What is no file could keep us waiting for ever.
        file = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise Undeliverable(f"{field} {path} is no file")
            content = os.read(file, most_bytes + 1)
        finally:
            os.close(file)
    except OSError as error:
        raise Undeliverable(
            f"{field} {path} cannot be read: {error.strerror}; the user that the server runs as must be able to"
        ) from error
    if len(content) > most_bytes:
        raise Undeliverable(f"{field} {path} has more than {most_bytes:,} bytes")
    return content


def _secret(field: str, path: str, secrets_dir: str) -> str:
    content = _content(field, path, secrets_dir, SECRET_BYTES)
    try:
        words = content.decode("ascii").strip()
    except UnicodeDecodeError:
        words = ""
    if not words or not words.isprintable():
        raise Undeliverable(f"{field} {path} must hold one line of printable ASCII, and nothing else")
    return words


def _tls(target: Target, secrets_dir: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if target.ca_file is not None:
        content = _content("ca_file", target.ca_file, secrets_dir, CERTIFICATES_BYTES)
        try:
            context.load_verify_locations(cadata=content.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise Undeliverable(
                f"ca_file {target.ca_file} cannot be used ({error}): it must hold certificates as PEM"
            ) from error
    return context


def _headers(target: Target, credentials: Credentials, request: Request, key: uuid.UUID) -> dict[str, str]:
    timestamp = str(int(time.time()))
    headers = {
        "Host": credentials.place.netloc,
        "User-Agent": f"gigawatch/{gigawatch.__version__}",
        "Content-Type": request.content_type,
        "Content-Length": str(len(request.body)),
        "Accept-Encoding": "identity",
        "Connection": "close",
        "Idempotency-Key": str(key),
        "X-Gigawatch-Delivery": str(key),
        "X-Gigawatch-Timestamp": timestamp,
        **request.headers,
    }
    if credentials.bearer is not None:
        headers["Authorization"] = f"Bearer {credentials.bearer}"
    if credentials.secret is not None and target.kind not in SECRET_NEEDED:
        signed = f"{timestamp}.".encode() + request.body
        digest = hmac.new(credentials.secret.encode(), signed, hashlib.sha256).hexdigest()
        headers["X-Gigawatch-Signature"] = f"sha256={digest}"
    return headers


def _judge(status: int, headers: dict[str, str], shown: str) -> Outcome:
    """What an answer means."""
    if 200 <= status < 300:
        return Outcome(state="sent", status=status, answer=shown)
    if 300 <= status < 400:
        try:
            host = Place(headers.get("location", "")).host
        except ValueError:
            host = "a path of its own"
        words = f"it redirects to {host}, and redirects are not followed: name the place itself as url"
        return Outcome(state="waiting", status=status, answer=words)
    retry_after_s = _retry_after_s(headers.get("retry-after", "")) if status in {429, 503} else None
    is_final = 400 <= status < 500 and status not in TRY_AGAIN
    words = f"HTTP {status}{f': {shown}' if shown else ''}"
    return Outcome(state="dead" if is_final else "waiting", status=status, answer=words, retry_after_s=retry_after_s)


def _retry_after_s(header: str) -> float | None:
    """Of the header Retry-After, which has seconds or a date, the seconds from now."""
    if header.strip().isdecimal():
        wait_s = float(header)
    else:
        try:
            wait_s = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(wait_s, 0.0), LONGEST_RETRY_AFTER_S)


def _in_words(error: Exception, place: Place, timeout_s: float) -> str:
    if isinstance(error, TimeoutError | httpcore.TimeoutException):
        return f"{place.host} did not answer within {timeout_s:g} s (alerts.delivery_timeout_s)"
    # httpcore's errors hold what they stand for.
    if any(isinstance(it, ssl.SSLError) for it in (error, *error.args)):
        return f"no TLS with {place.host}: {error}; ca_file names certificates to trust"
    return f"{place.host} could not be asked: {str(error) or type(error).__name__}"


def _line(words: str, length: int = MOST_SHOWN) -> str:
    """What may stand in the store, which takes no NUL, in a log and in a terminal, which obeys what it is sent."""
    return "".join(it for it in " ".join(words.split()) if it.isprintable())[:length]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _register(engine: Engine, targets: dict[str, Target], changed: set[str], secrets_dir: str) -> None:
    """Keep alert_target in step; give up what waits for targets that are gone, and try at once what changed."""
    with engine.begin() as connection:
        names = {"names": list(targets), "changed": list(changed)}
        connection.execute(text("DELETE FROM gigawatch.alert_target WHERE name <> ALL (:names)"), names)
        connection.execute(
            text(
                "UPDATE gigawatch.alert_delivery SET state = 'dead', answer = 'the target is no longer configured'"
                " WHERE state = 'waiting' AND target <> ALL (:names)"
            ),
            names,
        )
        if changed:
            connection.execute(text("DELETE FROM gigawatch.alert_target WHERE name = ANY (:changed)"), names)
            connection.execute(
                text(
                    "UPDATE gigawatch.alert_delivery SET due = now()"
                    " WHERE state = 'waiting' AND target = ANY (:changed)"
                ),
                names,
            )
        for name, target in targets.items():
            try:
                address = read_credentials(target, secrets_dir).place.address
            except Undeliverable:
                address = UNKNOWN_ADDRESS
            connection.execute(
                text(
                    "INSERT INTO gigawatch.alert_target AS held (name, kind, address) VALUES (:name, :kind, :address)"
                    " ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, address = excluded.address"
                    " WHERE (held.kind, held.address) <> (excluded.kind, excluded.address)"
                ),
                {"name": name, "kind": target.kind, "address": address},
            )


def _oldest(engine: Engine, name: str) -> Waiting | None:
    # All by the database's clock, which may differ from ours.
    with engine.begin() as connection:
        row = connection.execute(
            text(
                "SELECT delivery_id, key, attempts, notification,"
                " extract(epoch FROM greatest(due, open_until) - now())::double precision AS wait_s"
                " FROM gigawatch.alert_delivery LEFT JOIN gigawatch.alert_target ON name = target"
                " WHERE target = :name AND state = 'waiting' ORDER BY delivery_id LIMIT 1"
            ),
            {"name": name},
        ).one_or_none()
    return None if row is None else Waiting(**row._asdict())


def _begin(engine: Engine, delivery_id: int, backoff_s: float) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE gigawatch.alert_delivery SET attempts = attempts + 1, tried = now(),"
                " due = now() + make_interval(secs => :backoff_s) WHERE delivery_id = :delivery_id"
            ),
            {"delivery_id": delivery_id, "backoff_s": backoff_s},
        )


def _end(
    engine: Engine,
    name: str,
    delivery_id: int,
    outcome: Outcome,
    duration_ms: int,
    wait_s: float,
    pace: Pace,
    alerts: Alerts,
) -> None:
    """Write how an attempt went, of the notification and of the target."""
    values: dict[str, Any] = {
        "delivery_id": delivery_id,
        "name": name,
        "duration_ms": duration_ms,
        "wait_s": wait_s,
        "give_up_s": alerts.give_up_after_h * 3600,
        **msgspec.structs.asdict(outcome),
    }
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE gigawatch.alert_delivery SET duration_ms = :duration_ms, status = :status, answer = :answer,"
                " due = now() + make_interval(secs => :wait_s),"
                " state = CASE WHEN :state = 'waiting' AND now() + make_interval(secs => :wait_s)"
                " > created + make_interval(secs => :give_up_s) THEN 'dead' ELSE :state END"
                " WHERE delivery_id = :delivery_id"
            ),
            values,
        )
        if outcome.state == "sent":
            change = "failures = 0, open_until = NULL, succeeded = now(), error = NULL"
        else:
            change = (
                "failures = failures + 1, failed = now(), error = :answer, open_until = CASE"
                " WHEN failures + 1 >= :breaker_failures THEN now() + make_interval(secs => least(:longest_breaker_s,"
                " :breaker_s * 2.0 ^ least(failures + 1 - :breaker_failures, 30))) END"
            )
        connection.execute(
            text(
                f"UPDATE gigawatch.alert_target SET {change}, address = coalesce(:address, address) WHERE name = :name"
            ),
            values | msgspec.structs.asdict(pace),
        )
