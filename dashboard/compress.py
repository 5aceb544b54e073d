"""Answers in gzip, for who reads over a slow line: the code of the figures alone is 4.5 MB, and a quarter of it so."""

import gzip

import flask

SMALLEST = 1_000
MOST_KEPT = 64
KINDS = frozenset({"application/json", "application/javascript", "text/javascript", "text/css", "text/html"})
LIBRARIES = "/_dash-component-suites/"


def add_compression(server: flask.Flask) -> None:
    """Compress what is worth it; code, which never changes under its address, once."""
    kept: dict[str, bytes] = {}

    @server.after_request
    def compress(response: flask.Response) -> flask.Response:
        if (
            response.status_code != 200
            or response.mimetype not in KINDS
            or "Content-Encoding" in response.headers
            or not flask.request.accept_encodings["gzip"]
        ):
            return response
        response.direct_passthrough = False
        plain = response.get_data()
        if len(plain) < SMALLEST:
            return response
        address = flask.request.full_path
        packed = kept.get(address)
        if packed is None:
            library = flask.request.path.startswith(LIBRARIES)
            packed = gzip.compress(plain, compresslevel=6 if library else 3)
            if library and len(kept) < MOST_KEPT:
                kept[address] = packed
        response.set_data(packed)
        response.headers["Content-Encoding"] = "gzip"
        response.headers.pop("Accept-Ranges", None)
        response.headers.add("Vary", "Accept-Encoding")
        return response
