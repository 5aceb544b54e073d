"""Where an engine's metrics are, and what tells an endpoint from a node's others. Loads no parser."""

from urllib.parse import urlsplit

from collector.engines.catalogue import named
from gigawatch.settings import Engine

LONGEST_NAME = 200
PORTS = {"http": 80, "https": 443}
OWN = {"localhost", "127.0.0.1", "::1"}
"""Ways to write this machine."""


def complete(url: str, path: str) -> str:
    """A URL as people write it, with a scheme, and with this path if it has none."""
    url = url if "://" in url else f"http://{url}"
    return url if urlsplit(url).path.strip("/") else url.rstrip("/") + path


def metrics_url(settings: Engine) -> str:
    """The address that is read of a configured engine.

    Raises:
        GigawatchError: settings name an engine that is not known.
    """
    return complete(settings.url, named(settings.engine).path if settings.engine else "/metrics")


def same(url: str) -> tuple[str, int, str, str]:
    """What URLs have in common that are written differently and lead to the same metrics."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return "localhost" if host in OWN else host, parts.port or PORTS[parts.scheme], parts.path.rstrip("/"), parts.query


def endpoint_of(settings: Engine) -> str:
    """What windows of a configured engine, and assignments to it, call it: host and port, and the path where it is
    not /metrics.

    Raises:
        GigawatchError: settings name an engine that is not known.
    """
    parts = urlsplit(metrics_url(settings))
    return (parts.netloc + parts._replace(scheme="", netloc="").geturl().removesuffix("/metrics"))[:LONGEST_NAME]
