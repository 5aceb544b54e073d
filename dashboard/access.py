"""Who may look, and who may act: a viewer's, operator's or admin's token, once, for a signed cookie.

The cookie holds the SHA-256 of the token, never the token, and is signed with a key of this installation. The
token is asked about again every half minute, so that one that was revoked ends its sessions.
"""

import ipaddress
import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import flask
import sqlalchemy
from flask.sessions import SecureCookieSessionInterface
from markupsafe import Markup
from sqlalchemy import Engine
from werkzeug.wrappers import Response

from gigawatch import tokens
from gigawatch.tokens import Holder

log = logging.getLogger(__name__)
SESSION_S = 12 * 3_600
BELIEVED_S = 30.0
MOST_REMEMBERED = 10_000
MOST_FAILURES = 10
FAILURES_FORGOTTEN_S = 60.0
KEY_FILE = "dashboard.key"
OPEN_PATHS = frozenset({"/healthz", "/login", "/theme.css"})
OPEN_FOLDERS = ("/_dash-component-suites/", "/assets/")
ANYBODY = Holder(name="dashboard", role="operator")
"""Who it is in open access."""
ACTING = frozenset({"operator", "admin"})
AWAY = (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError)


class Access:
    """Guards a Flask server.

    Args:
        server: the server to guard.
        engine: of the store's owner: the role that reads figures cannot read tokens.
        open_access: let everybody on this machine in.
        data_dir: where the key is kept, so that sessions outlive a restart; None: a key for this process.
    """

    def __init__(self, server: flask.Flask, engine: Engine, *, open_access: bool, data_dir: Path | None = None) -> None:
        self.engine = engine
        self._open = open_access
        self._believed: dict[str, tuple[float, Holder]] = {}
        """When a token, by its hash, was last found good, and whose it is."""
        self._failures: dict[str, list[float]] = {}
        """When an address last gave a wrong token."""
        server.secret_key = _key(data_dir)
        server.session_interface = _Sessions()
        server.config.update(
            SESSION_COOKIE_NAME="gigawatch_session", SESSION_COOKIE_HTTPONLY=True, SESSION_COOKIE_SAMESITE="Strict"
        )
        server.add_url_rule("/healthz", "healthz", lambda: {"status": "ok"})
        server.before_request(_refuse_foreign_hosts if open_access else self._guard)
        if not open_access:
            server.add_url_rule("/login", "login", self._login, methods=["GET", "POST"])
            server.add_url_rule("/logout", "logout", self._logout, methods=["POST"])

    def holder(self) -> Holder | None:
        """Whose session the request is of, as last asked about; None: nobody's."""
        if self._open:
            return ANYBODY
        return self._believed.get(flask.session.get("token", ""), (0.0, None))[1]

    def actor(self) -> Holder | None:
        """Who does what the request asks for; None: who may not, or no page of ours. The store is asked anew."""
        if not _is_own_form():
            return None
        digest = flask.session.get("token")
        holder = ANYBODY if self._open else self._viewer(digest) if isinstance(digest, str) else None
        return holder if holder is not None and holder.role in ACTING else None

    def _guard(self) -> Response | tuple[str | dict[str, str], int] | None:
        """Let a request through, or send it to the login."""
        request = flask.request
        if request.path in OPEN_PATHS or request.path.startswith(OPEN_FOLDERS):
            return None
        try:
            if request.method == "GET" and "token" in request.args:
                return self._follow_link()
            return None if self._known() else _turn_away()
        except AWAY:
            return _login_page("The database cannot be reached. Try again in a moment."), 503

    def _follow_link(self) -> Response:
        """Take the token of a link, as `gigawatch up` prints it, and clean the address of it at once."""
        request = flask.request
        if not self._let_in(request.args["token"]):
            return flask.redirect("/login?wrong=1")
        rest = [(key, value) for key, value in request.args.items(multi=True) if key != "token"]
        return flask.redirect(_local(request.path) + (f"?{urlencode(rest)}" if rest else ""))

    def _known(self) -> bool:
        digest, since = flask.session.get("token"), flask.session.get("since")
        if not isinstance(digest, str) or not isinstance(since, (int, float)) or time.time() - since > SESSION_S:
            return False
        found_s, _ = self._believed.get(digest, (-BELIEVED_S, None))
        if time.monotonic() - found_s < BELIEVED_S:
            return True
        try:
            good = self._viewer(digest) is not None
        except AWAY:
            # The pages say themselves that the database is away; a token never seen here is not let in.
            if digest in self._believed:
                return True
            raise
        if not good:
            self._believed.pop(digest, None)
        return good

    def _let_in(self, secret: str) -> bool:
        """Begin a session for a good token; refuse a wrong one, and all for a while where too many were wrong."""
        address, now_s = flask.request.remote_addr or "", time.monotonic()
        failures = [at_s for at_s in self._failures.get(address, []) if now_s - at_s < FAILURES_FORGOTTEN_S]
        digest = tokens.secret_hash(secret[:200])
        if len(failures) >= MOST_FAILURES or self._viewer(digest) is None:
            if len(self._failures) >= MOST_REMEMBERED:
                self._failures.clear()
            self._failures[address] = [*failures[-MOST_FAILURES:], now_s]
            log.warning("a wrong token from %s", address)
            return False
        flask.session.clear()
        flask.session.update(token=digest, since=int(time.time()))
        return True

    def _viewer(self, digest: str) -> Holder | None:
        with self.engine.connect() as connection:
            holder = tokens.holder_of_hash(connection, digest)
        if holder is None or holder.role not in {"viewer", "operator", "admin"}:
            return None
        if len(self._believed) >= MOST_REMEMBERED:
            self._believed.clear()
        self._believed[digest] = (time.monotonic(), holder)
        return holder

    def _login(self) -> Response | tuple[str, int]:
        request = flask.request
        target = _local(request.args.get("next", "/"))
        if request.method == "POST":
            if not _is_own_form():
                return _login_page("Log in on this page itself."), 403
            try:
                if self._let_in(request.form.get("token", "").strip()):
                    return flask.redirect(target, 303)
            except AWAY:
                return _login_page("The database cannot be reached. Try again in a moment."), 503
            return _login_page("This token is not known, was revoked, or may not view. Mind the whole of it."), 401
        wrong = "This link's token is not known, or was revoked." if "wrong" in request.args else ""
        return _login_page(wrong), 200

    def _logout(self) -> Response | tuple[str, int]:
        if not _is_own_form():
            return "Log out on a page of the dashboard itself.", 403
        flask.session.clear()
        return flask.redirect("/login", 303)


def _turn_away() -> Response | tuple[str | dict[str, str], int]:
    request = flask.request
    if request.path.startswith("/_dash"):
        return {"error": "the session has ended"}, 401
    if request.method == "GET" and request.headers.get("Sec-Fetch-Site") == "cross-site":
        # A browser keeps our cookie back where a link elsewhere led here; asked again by ourselves, it gives it.
        return '<!doctype html><title>Gigawatch</title><meta http-equiv="refresh" content="0">', 200
    target = _local(request.full_path.rstrip("?"))
    return flask.redirect("/login" + (f"?{urlencode({'next': target})}" if target != "/" else ""))


class _Sessions(SecureCookieSessionInterface):
    """Cookies that stay on TLS where a page came over it, by ourselves or by a proxy that says so."""

    def get_cookie_secure(self, app: flask.Flask) -> bool:
        request = flask.request
        return request.is_secure or request.headers.get("X-Forwarded-Proto") == "https"


def _key(data_dir: Path | None) -> bytes:
    """The key that signs cookies, made where there is none."""
    if data_dir is None:
        return secrets.token_bytes(32)
    path = data_dir.expanduser() / KEY_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    except OSError as error:
        log.warning("no key can be kept in %s, so that a restart ends all sessions: %s", path, error.strerror)
        return secrets.token_bytes(32)
    key = path.read_bytes()
    return key if len(key) >= 32 else secrets.token_bytes(32)


def _is_own_form() -> bool:
    """Whether a browser says that one of our own pages sent this; other programs say nothing."""
    return flask.request.headers.get("Sec-Fetch-Site", "same-origin") in {"same-origin", "none"}


def _refuse_foreign_hosts() -> tuple[str, int] | None:
    """Refuse what was addressed to another name: a page elsewhere whose name was made to lead here."""
    name = urlsplit(f"//{flask.request.host}").hostname or ""
    try:
        good = name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        good = False
    return None if good else ("Open access is for this machine: use http://127.0.0.1 or http://localhost.", 403)


def _local(target: str) -> str:
    """A path of ours; the start where it could lead elsewhere."""
    parts = urlsplit(target)
    plain = target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    return target if plain and not parts.scheme and not parts.netloc else "/"


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
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "same-origin"
        if not flask.request.path.startswith(OPEN_FOLDERS):
            response.headers["Cache-Control"] = "no-store"
        return response


_LOGIN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · Gigawatch</title><link rel="icon" href="data:,"><script src="/assets/theme.js"></script>
<link rel="stylesheet" href="/theme.css"><link rel="stylesheet" href="/assets/gigawatch.css"></head>
<body class="login"><main><h1><span class="mark" aria-hidden="true"></span>Gigawatch</h1>
<form method="post"><label for="token">Token of a viewer, operator or admin</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
{problem}<button type="submit">Log in</button></form>
<p class="hint">Make one with <code>gigawatch token create --role viewer NAME</code></p></main></body></html>"""


def _login_page(problem: str) -> str:
    words = Markup('<p class="problem" role="alert">{}</p>').format(problem) if problem else ""
    return _LOGIN.replace("{problem}", str(words))
