"""Alerts over HTTP: viewers read, operators silence and acknowledge, admins bring configurations into force."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from msgspec import Meta, Struct
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from api.access import holder_name, require
from api.alerts import configured
from api.alerts.configured import ConfigurationApplied
from api.declared.nodes import MOST_BYTES
from api.declared.values import Unfit
from api.documents import Problem, answers, documented
from api.received import received
from gigawatch.alerts import actions, readings, sending
from gigawatch.alerts.actions import Wrong
from gigawatch.alerts.matchers import Matcher
from gigawatch.alerts.notification import Severity
from gigawatch.alerts.readings import Alert, Change, Delivery, DeliveryState, RuleNow, Silence, State, TargetNow
from gigawatch.known import require_known

router = APIRouter(prefix="/api/v1/alerts", tags=["alerts"])
READ = [Depends(require("viewer", "operator"))]
ACT = [Depends(require("operator"))]
SHORTER = "leave out what is as it is shipped"
Author = Annotated[str, Depends(holder_name)]
Limit = Annotated[int, Query(ge=1, le=10_000, description="Most rows to answer")]


class AlertInFull(Struct, frozen=True, kw_only=True):
    """An alert with what became of it and who was told."""

    alert: Alert
    changes: list[Change]
    deliveries: list[Delivery]


class SilenceWanted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be kept quiet."""

    matchers: tuple[Matcher, ...]
    ends: Annotated[datetime, Meta(tz=True)]
    reason: str
    starts: Annotated[datetime, Meta(tz=True)] | None = None
    """Absent: now."""
    maintenance: bool = False


class Acknowledgement(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Alerts that somebody takes on."""

    alert_ids: Annotated[tuple[int, ...], Meta(min_length=1, max_length=10_000)]
    note: str = ""


class Done(Struct, frozen=True, kw_only=True):
    """What was made or changed: a number of it, or how many."""

    number: int


def _body(kind: type[Struct]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": documented(kind)}}}}


@router.get("", responses=answers(list[Alert]), dependencies=READ)
def alerts(
    request: Request,
    state: Annotated[list[State] | None, Query(description="Default firing and pending")] = None,
    site: Annotated[str | None, Query(max_length=200)] = None,
    rule: Annotated[str | None, Query(max_length=200)] = None,
    severity: Severity | None = None,
    quiet: Annotated[bool | None, Query(description="Silenced or explained by another, or neither")] = None,
    since: Annotated[datetime | None, Query(description="Of resolved ones: ended since then")] = None,
    limit: Limit = 500,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> Response:
    """Alerts: those that fire first, the worst of them first, the newest of these first."""
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    with request.app.state.report_engine.connect() as connection:
        found = readings.alerts(
            connection, states=tuple(state or ("firing", "pending")), site=site, rule=rule, severity=severity,
            quiet=quiet, since=since, limit=limit, offset=offset,
        )  # fmt: skip
        # Alerts of what was there once, or that a rule of one's own names, are told all the same.
        if not found:
            require_known(connection, {"site": site, "rule": rule})
        return _json(found)


@router.get("/rules", responses=answers(list[RuleNow]), dependencies=READ)
def rules(request: Request) -> Response:
    """The rules in force, each with its last evaluation."""
    with request.app.state.report_engine.connect() as connection:
        return _json(readings.rules(connection))


@router.get("/silences", responses=answers(list[Silence]), dependencies=READ)
def silences(
    request: Request,
    ended: Annotated[bool, Query(description="Those that are over as well")] = False,
    limit: Limit = 500,
) -> Response:
    """Silences and maintenance windows, the newest first."""
    with request.app.state.report_engine.connect() as connection:
        return _json(readings.silences(connection, ended=ended, limit=limit))


@router.post("/silences", responses=answers(Done), dependencies=ACT, openapi_extra=_body(SilenceWanted))
async def add_silence(request: Request, author: Author) -> Response:
    """Tell nobody of alerts whose labels, rule and severity fit all matchers, for a while."""
    wanted = await _read(request, SilenceWanted)

    def act() -> int:
        with request.app.state.engine.begin() as connection:
            return actions.silence(
                connection, wanted.matchers, starts=wanted.starts or datetime.now(UTC), ends=wanted.ends, author=author,
                reason=wanted.reason, kind="maintenance" if wanted.maintenance else "silence",
            )  # fmt: skip

    return await _acted(act)


@router.delete("/silences/{silence_id}", responses=answers(Done), dependencies=ACT)
async def end_silence(request: Request, silence_id: int, author: Author) -> Response:
    """End a silence now."""

    def act() -> int:
        with request.app.state.engine.begin() as connection:
            actions.end_silence(connection, silence_id, author)
        return silence_id

    return await _acted(act)


@router.post("/acknowledge", responses=answers(Done), dependencies=ACT, openapi_extra=_body(Acknowledgement))
async def acknowledge(request: Request, author: Author) -> Response:
    """Take alerts on: nobody is told of them again while nothing changes. Answers how many were taken on."""
    wanted = await _read(request, Acknowledgement)

    def act() -> int:
        with request.app.state.engine.begin() as connection:
            return actions.acknowledge(connection, wanted.alert_ids, author, wanted.note)

    return await _acted(act)


@router.get("/targets", responses=answers(list[TargetNow]), dependencies=READ)
def targets(request: Request) -> Response:
    """Whom alerts are sent to, and how that goes."""
    with request.app.state.report_engine.connect() as connection:
        return _json(readings.targets(connection))


@router.post("/targets/{name}/test", responses=answers(Done), dependencies=ACT)
async def send_test(request: Request, name: str, author: Author) -> Response:
    """Send a target a notification that says that it is a test; its delivery tells what came of it."""

    def act() -> int:
        with request.app.state.engine.begin() as connection:
            return sending.send_test(connection, name, author)

    return await _acted(act)


@router.get("/deliveries", responses=answers(list[Delivery]), dependencies=READ)
def deliveries(
    request: Request,
    target: Annotated[str | None, Query(max_length=200)] = None,
    state: DeliveryState | None = None,
    alert_id: Annotated[int | None, Query(ge=1)] = None,
    limit: Limit = 200,
) -> Response:
    """What targets were told or are to be told, with what they answered, the newest first."""
    with request.app.state.report_engine.connect() as connection:
        return _json(readings.deliveries(connection, target=target, state=state, alert_id=alert_id, limit=limit))


@router.post("/deliveries/{delivery_id}/resend", responses=answers(Done), dependencies=ACT)
async def resend(request: Request, delivery_id: int) -> Response:
    """Send a notification again that was given up as dead, with the same key."""

    def act() -> int:
        with request.app.state.engine.begin() as connection:
            sending.resend(connection, delivery_id)
        return delivery_id

    return await _acted(act)


@router.get("/configuration", dependencies=READ)
def configuration(request: Request) -> Response:
    """The configuration in force; of URLs, whose paths may be secret, scheme and host alone."""
    with request.app.state.engine.connect() as connection:
        return _json(configured.shown(configured.in_force(connection).configuration))


@router.put(
    "/configuration",
    responses=answers(ConfigurationApplied, 413),
    dependencies=[Depends(require("admin"))],
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A file: docs/alerts.md",
            "content": {"application/yaml": {"schema": {"type": "string"}}},
        }
    },
)
async def apply(
    request: Request,
    author: Author,
    source: Annotated[str, Query(max_length=500, description="The file's name")] = "sent to the API",
    dry_run: Annotated[bool, Query(description="Check everything; change nothing")] = False,
) -> Response:
    """Bring rules, targets, routes, tenants and budgets into force, as YAML or JSON: all of it or nothing."""
    body = await received(request, MOST_BYTES, SHORTER)

    def act() -> Response:
        try:
            found = configured.read(body)
        except Unfit as error:
            problem = Problem(detail=error.remedy, findings=error.findings)
            return Response(msgspec.json.encode(problem), 422, media_type="application/json")
        state = request.app.state
        with state.engine.begin() as connection:
            return _json(
                configured.apply(
                    connection, state.rules_engine, state.settings.alerts, found,
                    author=author, source=source, dry_run=dry_run,
                )
            )  # fmt: skip

    return await run_in_threadpool(act)


@router.get("/{alert_id}", responses=answers(AlertInFull), dependencies=READ)
def alert(request: Request, alert_id: int) -> Response:
    """One alert: what explains it, what became of it, and who was told."""
    with request.app.state.report_engine.connect() as connection:
        found = readings.alert(connection, alert_id)
        if found is None:
            raise HTTPException(404, f"There is no alert {alert_id}")
        return _json(
            AlertInFull(
                alert=found,
                changes=readings.changes(connection, alert_id),
                deliveries=readings.deliveries(connection, alert_id=alert_id),
            )
        )


async def _read(request: Request, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(await received(request, MOST_BYTES, SHORTER), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HTTPException(422, f"{error}: /docs says what is expected") from error


async def _acted(act: Any) -> Response:
    try:
        return _json(Done(number=await run_in_threadpool(act)))
    except Wrong as error:
        raise HTTPException(422, f"{error.problem}. {error.remedy}") from error


def _json(found: Any) -> Response:
    return Response(msgspec.json.encode(found), media_type="application/json")
