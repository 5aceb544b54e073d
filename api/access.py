"""Who may do what: a bearer token with a role for every endpoint but the health checks."""

import hashlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import sqlalchemy
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gigawatch import tokens
from gigawatch.tokens import Holder, Role

REMEMBERED_S = 10.0
"""How long a token is believed without asking again: so soon does a revocation take effect."""
MOST_REMEMBERED = 100_000
MOST_LENGTH = 200


class Access:
    """Looks tokens up, and remembers them for a moment.

    Args:
        engine: of the store's owner.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[bytes, tuple[Holder | None, float]] = {}

    async def holder(self, request: Request) -> Holder:
        """Whose token the request has; raises as holder_of() does."""
        return await self.holder_of(request.headers.get("Authorization", ""))

    async def holder_of(self, authorization: str) -> Holder:
        """Whose token is in a header `Authorization`.

        Raises:
            HTTPException: 401 without a good token, 503 where the store cannot be asked.
        """
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise _unauthorised("This needs a token: send the header Authorization: Bearer …")
        if len(secret) > MOST_LENGTH:
            raise _unauthorised("The token is not known")
        # The secret itself is kept nowhere.
        key = hashlib.sha256(secret.encode()).digest()
        holder, until_s = self._known.get(key, (None, 0.0))
        if time.monotonic() >= until_s:
            holder = await run_in_threadpool(self._look_up, secret)
            if len(self._known) >= MOST_REMEMBERED:
                self._known.clear()
            self._known[key] = (holder, time.monotonic() + REMEMBERED_S)
        if holder is None:
            raise _unauthorised("The token is not known, or was revoked")
        return holder

    def _look_up(self, secret: str) -> Holder | None:
        try:
            with self._engine.connect() as connection:
                return tokens.holder_of(connection, secret)
        except sqlalchemy.exc.DBAPIError as error:
            raise HTTPException(503, "The database cannot be reached", {"Retry-After": "2"}) from error


def require(*roles: Role) -> Callable[[Request], Coroutine[Any, Any, Role]]:
    """A dependency that lets only these roles, and admin, in."""

    async def check(request: Request) -> Role:
        access: Access = request.app.state.access
        role = (await access.holder(request)).role
        if role != "admin" and role not in roles:
            raise HTTPException(403, f"A token with role {role} may not do this: it needs {' or '.join(roles)}")
        return role

    return check


async def holder_name(request: Request) -> str:
    """A dependency: the name of the request's token, for what is kept of who did what."""
    access: Access = request.app.state.access
    return (await access.holder(request)).name


def _unauthorised(problem: str) -> HTTPException:
    return HTTPException(401, problem, {"WWW-Authenticate": "Bearer"})
