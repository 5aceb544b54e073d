"""Tokens of the API and the dashboard: 256 random bits, of which the store keeps the SHA-256 alone.

A fast hash is right here: there is nothing to guess in 256 random bits, and a look-up by hash takes the same
time for every wrong secret.
"""

import hashlib
import secrets
from datetime import datetime
from typing import Literal, get_args

from msgspec import Struct
from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from gigawatch.errors import GigawatchError
from gigawatch.schema import api_token

Role = Literal["agent", "viewer", "operator", "admin"]
"""agent may send batches, viewer may read; operator may read, silence and acknowledge alerts; admin may do all."""
ROLES: tuple[Role, ...] = get_args(Role)


class Holder(Struct, frozen=True, kw_only=True):
    """Whose token it is, and what it may."""

    name: str
    role: Role


class Token(Struct, frozen=True, kw_only=True):
    """What is known of a token; its secret is not."""

    name: str
    role: Role
    created: datetime
    revoked: datetime | None


def create(connection: Connection, name: str, role: Role) -> str:
    """Make a token and return its secret, which is shown this once.

    Raises:
        GigawatchError: there is a token of that name.
    """
    secret = f"gw_{role}_{secrets.token_urlsafe(32)}"
    made = connection.execute(
        insert(api_token)
        .values(name=name, role=role, secret_sha256=secret_hash(secret))
        .on_conflict_do_nothing(index_elements=["name"])
    )
    if made.rowcount == 0:
        raise GigawatchError(
            f"There is a token named {name!r} already",
            "Choose another name; revoked tokens keep theirs, so that logs stay unambiguous.",
        )
    return secret


def holder_of(connection: Connection, secret: str) -> Holder | None:
    """Whose token this is and what it may; None: there is none with this secret, or it was revoked."""
    return holder_of_hash(connection, secret_hash(secret))


def holder_of_hash(connection: Connection, digest: str) -> Holder | None:
    """The same, for who kept the secret's hash in place of the secret."""
    row = connection.execute(
        select(api_token.c.name, api_token.c.role).where(
            api_token.c.secret_sha256 == digest, api_token.c.revoked.is_(None)
        )
    ).one_or_none()
    return None if row is None else Holder(**row._mapping)


def revoke(connection: Connection, name: str) -> None:
    """Make a token useless from now on.

    Raises:
        GigawatchError: there is no good token of that name.
    """
    done = connection.execute(
        update(api_token).where(api_token.c.name == name, api_token.c.revoked.is_(None)).values(revoked=func.now())
    )
    if done.rowcount == 0:
        raise GigawatchError(f"There is no token named {name!r} that could be revoked", "See `gigawatch token list`.")


def listing(connection: Connection) -> list[Token]:
    """All tokens, the oldest first, the revoked ones too."""
    rows = connection.execute(
        select(api_token.c.name, api_token.c.role, api_token.c.created, api_token.c.revoked).order_by(
            api_token.c.token_id
        )
    )
    return [Token(**row._mapping) for row in rows]


def secret_hash(secret: str) -> str:
    """What the store keeps of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()
