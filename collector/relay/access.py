"""Who may do what at a relay: the server is asked about each token, and what it said is kept for when it is away."""

import asyncio
import hashlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor

from collector.client import Client, ServerUnreachable
from collector.relay.spool import RelaySpool
from collector.spool import SpoolFull
from gigawatch.bodies import Unacceptable

LOOK_UPS = 4
"""Threads that ask the server."""
GOOD_S = 60.0
"""How long a good token is believed without asking again: so soon does a revocation take effect."""
BAD_S = 10.0
AWAY_S = 5.0
"""How long the server is taken to be away after it did not answer."""
MOST_BAD = 10_000
MOST_ASKED = 1_024
"""Tokens that are being asked about; beyond it requests are turned away."""
MOST_LENGTH = 200
log = logging.getLogger(__name__)


class Access:
    """Looks tokens up on the server. The secrets themselves are kept nowhere.

    Args:
        client: asks the server, from several threads.
        spool: keeps the good tokens' hashes through a restart.
    """

    def __init__(self, client: Client, spool: RelaySpool) -> None:
        self._client = client
        self._spool = spool
        self._threads = ThreadPoolExecutor(LOOK_UPS, thread_name_prefix="access")
        self._good = {digest: (role, 0.0) for digest, role in spool.tokens().items()}
        self._bad: dict[bytes, float] = {}
        self._asked: dict[bytes, asyncio.Future[str | None]] = {}
        self._away_until_s = 0.0

    async def require(self, authorization: str, *roles: str) -> str:
        """The role of the token in the header, if it is one of these or admin.

        Raises:
            Unacceptable: 401 without a good token, 403 where its role may not do this, 503 where nobody can say.
        """
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise Unacceptable(401, "This needs a token: send the header Authorization: Bearer …")
        if len(secret) > MOST_LENGTH or not (secret.isascii() and secret.isprintable()):
            raise Unacceptable(401, "The token is not known")
        role = await self._role(secret)
        if role is None:
            raise Unacceptable(401, "The token is not known, or was revoked")
        if role != "admin" and role not in roles:
            raise Unacceptable(403, f"A token with role {role} may not do this: it needs {' or '.join(roles)}")
        return role

    def close(self) -> None:
        """Ask no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _role(self, secret: str) -> str | None:
        digest = hashlib.sha256(secret.encode()).digest()
        now_s = time.monotonic()
        role, until_s = self._good.get(digest, (None, 0.0))
        if role is not None and now_s < until_s:
            return role
        if self._bad.get(digest, 0.0) > now_s:
            return None
        if now_s >= self._away_until_s:
            try:
                return await self._ask(digest, secret)
            except ServerUnreachable as error:
                log.debug("a token cannot be checked: %s", error)
                self._away_until_s = time.monotonic() + AWAY_S
        if role is not None:
            return role
        raise Unacceptable(503, "The server that knows the tokens cannot be reached", retry_after_s=round(AWAY_S))

    async def _ask(self, digest: bytes, secret: str) -> str | None:
        """What the server says of the token now; requests with the same one wait for one answer."""
        answer = self._asked.get(digest)
        if answer is None:
            if len(self._asked) >= MOST_ASKED:
                raise Unacceptable(503, "Too many tokens wait to be checked", retry_after_s=1)
            loop = asyncio.get_running_loop()
            answer = self._asked[digest] = loop.run_in_executor(self._threads, self._look_up, digest, secret)
            answer.add_done_callback(lambda _: self._asked.pop(digest))
        # One who goes away takes the answer from nobody.
        role = await asyncio.shield(answer)
        now_s = time.monotonic()
        if role is not None:
            self._good[digest] = role, now_s + GOOD_S
            self._bad.pop(digest, None)
        else:
            self._good.pop(digest, None)
            if len(self._bad) >= MOST_BAD:
                self._bad.clear()
            self._bad[digest] = now_s + BAD_S
        return role

    def _look_up(self, digest: bytes, secret: str) -> str | None:
        role = self._client.role(secret)
        before, _ = self._good.get(digest, (None, 0.0))
        if role != before:
            try:
                self._spool.remember_token(digest, role)
            except SpoolFull as error:
                log.warning("a token cannot be remembered: %s", error)
        return role
