"""Who may look: a viewer's or admin's token, once, for a signed cookie.

The cookie holds the token's hash-keyed name in our memory, never the token. It is signed with a key of this
process, and asked about again every half minute, so that a revoked token ends its sessions.
"""

import secrets
import time
from collections.abc import Callable
from urllib.parse import urlencode

import flask
import sqlalchemy
from markupsafe import Markup
from msgspec import Struct
from sqlalchemy import Engine
from werkzeug.wrappers import Response

from gigawatch import tokens

SESSION_S = 12 * 3_600
BELIEVED_S = 30.0
MOST_SESSIONS = 10_000
MOST_FAILURES = 10
FAILURES_FORGOTTEN_S = 60.0
OPEN_PATHS = frozenset({"/healthz", "/login", "/theme.css"})


class _Session(Struct):
    secret: str
    until_s: float
    asked_s: float


class Access:
    """Guards a Flask server.

    Args:
        server: the server to guard.
        engine: of the store's owner: the role that reads figures cannot read tokens.
        open_access: let everybody in.
    """

    def __init__(self, server: flask.Flask, engine: Engine, *, open_access: bool) -> None:
        self._engine = engine
        self._sessions: dict[str, _Session] = {}
        self._failures: list[float] = []
        server.secret_key = secrets.token_bytes(32)
        server.config.update(
            SESSION_COOKIE_NAME="gigawatch_session", SESSION_COOKIE_HTTPONLY=True, SESSION_COOKIE_SAMESITE="Strict"
        )
        server.add_url_rule("/healthz", "healthz", lambda: {"status": "ok"})
        if not open_access:
            server.before_request(self._guard)
            server.add_url_rule("/login", "login", self._login, methods=["GET", "POST"])
            server.add_url_rule("/logout", "logout", self._logout, methods=["POST"])

    def _guard(self) -> Response | tuple[dict[str, str], int] | None:
        """Let a request through, or send it to the login."""
        request = flask.request
        if request.path in OPEN_PATHS or request.path.startswith(("/_dash-component-suites/", "/assets/")):
            return None
        offered = request.args.get("token") if request.method == "GET" else None
        if offered is not None:
            # As in the link that `gigawatch up` prints; the address is cleaned of it at once.
            if self._let_in(offered) is None:
                return flask.redirect("/login?wrong=1")
            rest = [(key, value) for key, value in request.args.items(multi=True) if key != "token"]
            return flask.redirect(request.path + (f"?{urlencode(rest)}" if rest else ""))
        if self._known():
            return None
        if request.path.startswith("/_dash") and request.method == "POST":
            return {"error": "the session has ended"}, 401
        return flask.redirect("/login")

    def _known(self) -> bool:
        key = flask.session.get("key")
        session = self._sessions.get(key) if isinstance(key, str) else None
        if session is None or time.monotonic() > session.until_s:
            return False
        if time.monotonic() - session.asked_s > BELIEVED_S:
            try:
                good = self._role(session.secret)
            except sqlalchemy.exc.DBAPIError:
                return True  # the pages say themselves that the database is away
            if not good:
                del self._sessions[str(key)]
                return False
            session.asked_s = time.monotonic()
        return True

    def _let_in(self, secret: str) -> str | None:
        """A session for a good token; None for a wrong one, and for all while too many were wrong."""
        now_s = time.monotonic()
        self._failures = [at_s for at_s in self._failures if now_s - at_s < FAILURES_FORGOTTEN_S]
        if len(self._failures) >= MOST_FAILURES or not self._role(secret):
            self._failures.append(now_s)
            return None
        if len(self._sessions) >= MOST_SESSIONS:
            self._sessions.clear()
        key = secrets.token_urlsafe(32)
        self._sessions[key] = _Session(secret, now_s + SESSION_S, now_s)
        flask.session.clear()
        flask.session["key"] = key
        return key

    def _role(self, secret: str) -> bool:
        with self._engine.connect() as connection:
            return tokens.role_of(connection, secret[:200]) in {"viewer", "admin"}

    def _login(self) -> Response | tuple[str, int]:
        if flask.request.method == "POST":
            try:
                if self._let_in(flask.request.form.get("token", "").strip()) is not None:
                    return flask.redirect("/", 303)
            except sqlalchemy.exc.DBAPIError:
                return _login_page("The database cannot be reached. Try again in a moment."), 503
            return _login_page("This token is not known, was revoked, or may not view. Mind the whole of it."), 401
        wrong = "This link's token is not known, or was revoked." if "wrong" in flask.request.args else ""
        return _login_page(wrong), 200

    def _logout(self) -> Response:
        self._sessions.pop(str(flask.session.get("key")), None)
        flask.session.clear()
        return flask.redirect("/login", 303)


def add_headers(server: flask.Flask, script_hashes: Callable[[], list[str]]) -> None:
    """Tell browsers what pages may load: nothing from elsewhere, no frames, no scripts but ours."""

    @server.after_request
    def secure(response: flask.Response) -> flask.Response:
        scripts = " ".join(script_hashes())
        response.headers["Content-Security-Policy"] = (
            f"default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline';"
            " img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self';"
            " form-action 'self'; frame-ancestors 'none'"
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        return response


_LOGIN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · Gigawatch</title><script src="/assets/theme.js"></script>
<link rel="stylesheet" href="/theme.css"><link rel="stylesheet" href="/assets/gigawatch.css"></head>
<body class="login"><main><h1><span class="mark" aria-hidden="true"></span>Gigawatch</h1>
<form method="post" action="/login"><label for="token">Token of a viewer or admin</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
{problem}<button type="submit">Log in</button></form>
<p class="hint">Make one with <code>gigawatch token create --role viewer NAME</code></p></main></body></html>"""


def _login_page(problem: str) -> str:
    words = Markup('<p class="problem" role="alert">{}</p>').format(problem) if problem else ""
    return _LOGIN.replace("{problem}", str(words))
