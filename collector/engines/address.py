"""What an engine's endpoint is called, on the windows of its tokens and of the GPUs that work for it."""

from urllib.parse import urlsplit

from gigawatch.settings import Engine

LONGEST_NAME = 200


def address(engine: Engine) -> str:
    """Host and port, and the path where it is not /metrics."""
    parts = urlsplit(engine.url)
    path = parts._replace(scheme="", netloc="").geturl().removesuffix("/metrics").removesuffix("/")
    return (parts.netloc + path)[:LONGEST_NAME]
