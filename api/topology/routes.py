"""Topologies over HTTP: viewers read them, admins bring them into force."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api.access import require
from api.declared.nodes import MOST_BYTES
from api.declared.values import Unfit
from api.documents import Problem, answers, documented
from api.received import received
from api.topology import files, store
from api.topology.store import Applied
from gigawatch.topology.document import Topology

router = APIRouter(prefix="/api/v1", dependencies=[Depends(require("admin"))], tags=["facility"])
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A file: docs/topology.md",
        "content": {
            "application/yaml": {"schema": {"type": "string"}},
            "application/json": {"schema": documented(Topology)},
        },
    }
}


@router.put("/topology", responses=answers(Applied, 413), openapi_extra=BODY)
async def apply_topology(
    request: Request,
    source: Annotated[str, Query(max_length=500, description="The file's name")] = "sent to the API",
    dry_run: Annotated[
        bool, Query(description="Check everything and answer what would change; change nothing")
    ] = False,
) -> Response:
    """Bring the topology of one or more sites into force, as YAML or JSON: all of it or nothing."""
    body = await received(request, MOST_BYTES, "use ranges, or send sites one by one")
    return await run_in_threadpool(_apply, request, body, source, dry_run)


def _apply(request: Request, body: bytes, source: str, dry_run: bool) -> Response:
    try:
        found = files.read(body)
    except Unfit as error:
        problem = Problem(detail=error.remedy, findings=error.findings)
        return Response(msgspec.json.encode(problem), 422, media_type="application/json")
    with request.app.state.engine.begin() as connection:
        done = store.apply(connection, found, source=source, dry_run=dry_run)
    return Response(msgspec.json.encode(done), media_type="application/json")
