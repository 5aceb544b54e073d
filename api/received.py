"""What a request sends, for routes that take a whole document."""

from starlette.exceptions import HTTPException
from starlette.requests import Request


async def received(request: Request, most_bytes: int, remedy: str) -> bytes:
    """The body of a request.

    Raises:
        HTTPException: 413, it is larger than most_bytes: remedy says what to do.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most_bytes:
            raise HTTPException(413, f"The body is larger than {most_bytes} bytes: {remedy}")
    return bytes(body)
