"""Where a meter is, and how it lets us in: what the drivers need of its settings."""

from base64 import b64encode
from pathlib import Path
from ssl import create_default_context

from collector.meters.endpoint import Endpoint, endpoint
from gigawatch.errors import ExitCode, GigawatchError
from gigawatch.settings import Meter


def place(settings: Meter, ports: dict[str, int]) -> tuple[str, Endpoint]:
    """Scheme and place of a meter whose address may begin with a scheme.

    Args:
        settings: with the address.
        ports: the usual port of each scheme; the first scheme is that of an address without one.

    Raises:
        GigawatchError: the address is not of this form.
    """
    scheme, separator, rest = settings.address.rpartition("://")
    scheme = scheme if separator else next(iter(ports))
    if scheme not in ports or "@" in rest:
        forms = " or ".join(f"{scheme}://HOST:{port}" for scheme, port in ports.items())
        # It is not shown: it may hold a password.
        raise GigawatchError(
            f"The address of the meter {settings.name} is not of the form {forms}",
            "Write it in this form; user and password belong to user and secret_file.",
            ExitCode.CONFIGURATION,
        )
    return scheme, endpoint(rest.removesuffix("/"), ports[scheme])


def secret(settings: Meter) -> str | None:
    """What the file with the password says, without the end of its line; None where settings name none.

    Raises:
        GigawatchError: it cannot be read, or has more than a line.
    """
    if settings.secret_file is None:
        return None
    try:
        lines = Path(settings.secret_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        # What Python says of text that is not UTF-8 shows it.
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _wrong_file(settings, "secret_file", settings.secret_file, f"cannot be read: {reason}") from None
    if len(lines) != 1 or not lines[0]:
        raise _wrong_file(settings, "secret_file", settings.secret_file, f"has {len(lines)} lines")
    return lines[0]


def login(settings: Meter) -> tuple[str, str] | None:
    """User and password; None where settings name neither.

    Raises:
        GigawatchError: they name one without the other, or the file cannot be used.
    """
    password = secret(settings)
    if settings.user is None and password is None:
        return None
    if settings.user is None or password is None:
        raise GigawatchError(
            f"The meter {settings.name} has {'user' if settings.user else 'secret_file'} alone",
            "Set user and secret_file, or neither.",
            ExitCode.CONFIGURATION,
        )
    return settings.user, password


def http_basic(user: str, password: str) -> dict[str, str]:
    """The header that lets us in by HTTP Basic: RFC 7617, in UTF-8, where urllib3's own knows Latin-1 alone."""
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}


def certificates(settings: Meter) -> str | None:
    """The file of certificates to trust.

    Raises:
        GigawatchError: it cannot be read, or holds none.
    """
    if settings.ca_file:
        try:
            create_default_context(cafile=settings.ca_file)
        except OSError as error:
            raise _wrong_file(settings, "ca_file", settings.ca_file, f"cannot be used: {error.strerror}") from None
    return settings.ca_file


def _wrong_file(settings: Meter, key: str, path: str, problem: str) -> GigawatchError:
    wanted = "the password on its only line" if key == "secret_file" else "the certificates to trust, as PEM"
    return GigawatchError(
        f"{key} = {path!r} of the meter {settings.name} {problem}",
        f"Name a file that holds {wanted}, and that this user may read.",
        ExitCode.CONFIGURATION,
    )
