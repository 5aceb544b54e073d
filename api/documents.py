"""What OpenAPI says of answers: schemas are made from the very records that are encoded."""

from typing import Any, get_args

import msgspec
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from msgspec import Struct
from starlette.exceptions import HTTPException

from gigawatch.findings import Finding
from gigawatch.records import Event, GpuHealth, GpuWindow, Inventory, MeterWindow, NodeWindow, ServingWindow
from gigawatch.wire import BATCHES, JSON, MSGPACK, Outcome, Receipt

INGEST_PATH = "/api/v1/batches"
OPEN_PATHS = ("/healthz", "/readyz")
INGEST = f"""Store a batch: inventory, windows, events, slow readings. The answer comes after the commit.

A numbered batch (spool_id and seq) that was stored before is answered as a duplicate. A bad item is refused with its
field named; the rest of its batch is stored. A relay sends many batches as {BATCHES} and is answered with one outcome
for each, in order."""
REFERENCE = "#/components/schemas/{name}"
BATCH_ITEMS = (Inventory, GpuWindow, NodeWindow, ServingWindow, MeterWindow, Event, GpuHealth)


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was not served."""

    detail: str
    code: str | None = None
    """clock: the node's clock is off. gap: batches are missing before this one."""
    expected_seq: int | None = None
    """The batch number that the server waits for."""
    findings: list[Finding] = []
    """Everything that is wrong with a topology."""


class Greeting(Struct, frozen=True, kw_only=True):
    """What the server says of itself."""

    server_time: Any
    version: str
    role: str
    max_clock_offset_s: float


_documented: list[type[Struct]] = [Problem, Receipt, Outcome, *BATCH_ITEMS]


def documented(record: type[Struct]) -> dict[str, str]:
    """A reference to a record's schema, which is put into the document."""
    if record not in _documented:
        _documented.append(record)
    return {"$ref": REFERENCE.format(name=record.__name__)}


def answers(kind: Any, *others: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` of a route that answers this record, or a list of it."""
    record = get_args(kind)[0] if get_args(kind) else kind
    reference = documented(record)
    schema = {"type": "array", "items": reference} if get_args(kind) else reference
    problem = {"content": {JSON: {"schema": {"$ref": REFERENCE.format(name="Problem")}}}}
    words = {401: "No good token", 403: "The token's role may not do this", 404: "There is no such thing",
             422: "A parameter is wrong: it is named", 503: "The database is away or too slow: try again"}  # fmt: skip
    statuses = (401, 403, 404, 422, 503, *others)
    return {
        200: {"description": (record.__doc__ or "").partition("\n")[0], "content": {JSON: {"schema": schema}}},
        **{status: {"description": words.get(status, "Refused"), **problem} for status in statuses},
    }


def batch_schema() -> dict[str, Any]:
    """The batch as people write it in JSON."""

    def items(kind: type[Struct]) -> dict[str, Any]:
        return {"type": "array", "items": {"$ref": REFERENCE.format(name=kind.__name__)}}

    return {
        "type": "object",
        "required": ["machine_id", "sent_at"],
        "additionalProperties": False,
        "properties": {
            "version": {"const": 1},
            "machine_id": {"type": "string", "description": "The node's own lasting identity"},
            "sent_at": {"type": "string", "format": "date-time", "description": "The node's clock at sending"},
            "spool_id": {"type": "string", "description": "Identity of the spool; with seq: stored exactly once"},
            "seq": {"type": "integer", "minimum": 0},
            "oldest_seq": {"type": "integer", "minimum": 0, "description": "Least number still in the spool"},
            "simulated": {"type": "boolean", "description": "Whether the data are simulated or replayed"},
            "inventory": {"$ref": REFERENCE.format(name="Inventory")},
            "gpu_windows": items(GpuWindow),
            "node_windows": items(NodeWindow),
            "serving_windows": items(ServingWindow),
            "meter_windows": items(MeterWindow),
            "events": items(Event),
            "health": items(GpuHealth),
        },
    }


def _ingest() -> dict[str, Any]:
    """The operation that api.ingest serves."""
    batch = {"schema": {"$ref": REFERENCE.format(name="Batch")}}
    many = {"schema": {"type": "string", "format": "binary", "description": "gigawatch.wire.Batches in msgpack"}}
    return {
        "tags": ["ingest"],
        "summary": "Store a batch",
        "operationId": "batches",
        "description": INGEST,
        "requestBody": {"required": True, "content": {JSON: batch, MSGPACK: batch, BATCHES: many}},
        "responses": {str(status): answer for status, answer in answers(Receipt, 400, 409, 413, 415).items()},
    }


async def known_parameters(request: Request) -> None:
    """A dependency that refuses parameters that nobody knows: what they ask for would be left out without a word.

    Raises:
        HTTPException: 422 with the parameters that are known.
    """
    operation = describe(request.app)["paths"][request.scope["route"].path][request.method.lower()]
    known = [it["name"] for it in operation.get("parameters", ()) if it["in"] == "query"]
    for name, value in request.query_params.items():
        if name not in known:
            words = f"leave it out, or name one of {', '.join(known)}" if known else "leave it out"
            raise HTTPException(422, f"Parameter {name[:80]} = {value[:80]!r} is not known: {words}")


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        _, schemas = msgspec.json.schema_components(_documented, ref_template=REFERENCE)
        components = document.setdefault("components", {})
        components["schemas"] = {**schemas, "Batch": batch_schema()}
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["paths"][INGEST_PATH] = {"post": _ingest()}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if path not in OPEN_PATHS:
                    operation["security"] = [{"token": []}]
        app.openapi_schema = document
    return app.openapi_schema
