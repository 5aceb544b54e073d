"""Sends prepared HTTP requests over a few connections, as cheaply as Python can, and says how long answers took.

On each connection a request is sent when the one before it was acknowledged, as agents do. All connections share one
epoll in one process, so that the loader is not what is measured: python -m bench.loader measures it against a sink.
On 2 shared cores of an AMD EPYC, Python 3.11: 9 to 11 µs of CPU a request of 200 to 8,000 bytes, and 28,000 to 96,000
requests/s over 4 or 16 connections, the sink's own work on the other core.
"""

import heapq
import multiprocessing
import os
import select
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

from msgspec import Struct

RECEIVE_BYTES = 1 << 18
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BUSY = (429, 503)
"""The server asks to be sent the same again later."""


class Sent(Struct, frozen=True):
    """What became of some requests."""

    requests: int
    refused: int
    """Answered with another status than 2xx; 429 and 503 are not final and are not counted."""
    retried: int
    """Answers 429 and 503: the request was sent again after Retry-After."""
    took_s: float
    cpu_s: float
    """Of the loader."""
    latencies_ms: list[float]
    """Sorted; from the first byte sent to the last received, with waits that the server asked for."""
    refusals: list[str] = []
    """The first few refusing answers."""

    def latency_ms(self, share: float) -> float:
        """A quantile."""
        return self.latencies_ms[min(len(self.latencies_ms) - 1, int(share * len(self.latencies_ms)))]


def request(port: int, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A POST, head and body."""
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def lanes(requests: Sequence[bytes], connections: int) -> list[list[bytes]]:
    """Requests dealt out to connections, one to each in turn."""
    return [list(requests[lane::connections]) for lane in range(connections)]


def send(port: int, queues: Sequence[Sequence[bytes]]) -> Sent:
    """Send each queue's requests over a connection of its own, all at the same time.

    Raises:
        ConnectionError: the server closed a connection, or answered without saying how long its answer is.
    """
    poll = select.epoll()
    opened = [_Lane(port, requests) for requests in queues if requests]
    by_number = {lane.socket.fileno(): lane for lane in opened}
    waiting: list[tuple[float, int]] = []
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    for number, lane in by_number.items():
        lane.begin()
        poll.register(number, lane.wanted())
    busy = len(opened)
    while busy:
        timeout_s = max(0.0, waiting[0][0] - time.perf_counter()) if waiting else None
        for number, _ in poll.poll(timeout_s):
            lane = by_number[number]
            before = lane.wanted()
            if lane.unsent:
                lane.write()
            elif lane.read():
                if lane.resume_s:
                    heapq.heappush(waiting, (lane.resume_s, number))
                elif not lane.next():
                    poll.unregister(number)
                    busy -= 1
                    continue
            if lane.wanted() != before:
                poll.modify(number, lane.wanted())
        while waiting and waiting[0][0] <= time.perf_counter():
            number = heapq.heappop(waiting)[1]
            by_number[number].again()
            poll.modify(number, by_number[number].wanted())
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    for lane in opened:
        lane.socket.close()
    latencies_ms = sorted(ms for lane in opened for ms in lane.latencies_ms)
    refusals = [text for lane in opened for text in lane.refusals]
    retried = sum(lane.retried for lane in opened)
    return Sent(len(latencies_ms), len(refusals), retried, took_s, cpu_s, latencies_ms, refusals[:3])


class _Lane:
    """One connection and what is to be sent over it."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A relay's body of megabytes must not hold up the other connections.
        self.socket.setblocking(False)
        self._requests = requests
        self._place = 0
        self._began_s = 0.0
        self._answer = b""
        self.unsent: memoryview | None = None
        self.resume_s = 0.0
        """When to send the same again; 0: not waiting."""
        self.retried = 0
        self.refusals: list[str] = []
        self.latencies_ms: list[float] = []

    def wanted(self) -> int:
        """What to wait for."""
        return select.EPOLLOUT if self.unsent else select.EPOLLIN

    def begin(self) -> None:
        """Send the request that is next."""
        self._began_s = time.perf_counter()
        self.again()

    def again(self) -> None:
        """Send it, or once more."""
        self.resume_s = 0.0
        whole = self._requests[self._place]
        try:
            sent = self.socket.send(whole)
        except BlockingIOError:
            sent = 0
        self.unsent = memoryview(whole)[sent:] if sent < len(whole) else None

    def write(self) -> None:
        """Send on."""
        assert self.unsent is not None
        sent = self.socket.send(self.unsent)
        self.unsent = self.unsent[sent:] if sent < len(self.unsent) else None

    def next(self) -> bool:
        """Begin the request after this one; False: there is none."""
        self._place += 1
        if self._place == len(self._requests):
            return False
        self.begin()
        return True

    def read(self) -> bool:
        """Take what arrived; whether the answer is whole."""
        part = self.socket.recv(RECEIVE_BYTES)
        if not part:
            raise ConnectionError("the server closed the connection")
        answer = self._answer + part if self._answer else part
        self._answer = answer
        end = answer.find(b"\r\n\r\n")
        if end < 0:
            return False
        status = int(answer[9:12])
        if status != 204:
            length = _field(answer[: end + 2], b"content-length")
            if length is None:
                raise ConnectionError(f"an answer of unknown length: {answer[:200].decode(errors='replace')}")
            if len(answer) < end + 4 + int(length):
                return False
        self._answer = b""
        if status in BUSY:
            self.retried += 1
            self.resume_s = time.perf_counter() + float(_field(answer[: end + 2], b"retry-after") or 1)
            return True
        if not 200 <= status < 300:
            self.refusals.append(answer[:500].decode(errors="replace"))
        self.latencies_ms.append((time.perf_counter() - self._began_s) * 1_000)
        return True


def _field(head: bytes, name: bytes) -> bytes | None:
    """A field of an answer's head."""
    place = head.lower().find(b"\r\n" + name + b":")
    if place < 0:
        return None
    first = place + len(name) + 3
    return head[first : head.find(b"\r\n", first)].strip()


def send_apart(port: int, queues: Sequence[Sequence[bytes]]) -> Sent:
    """send() in a process of its own, so that its time is counted apart and nobody's lock is held.

    The process is forked: gigabytes of prepared requests need not be copied.
    """
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_send_to, args=(theirs, port, queues))
    process.start()
    theirs.close()
    try:
        sent: Sent = ours.recv()
    finally:
        process.join()
    return sent


def _send_to(pipe: Connection, port: int, queues: Sequence[Sequence[bytes]]) -> None:
    pipe.send(send(port, queues))


def cpu_s(pids: Sequence[int]) -> float:
    """CPU time that processes have used so far, s; that of children which have ended is in it."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123 # called between timings
                fields = stat.read().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / TICKS_PER_S


def _sink(listener: socket.socket) -> None:
    """Answer requests of one send each, without looking at them."""
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    known: dict[int, socket.socket] = {}
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                connection, _address = listener.accept()
                known[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
            elif known[number].recv(RECEIVE_BYTES):
                known[number].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            else:
                poll.unregister(number)
                known.pop(number).close()


def main() -> None:
    """Measure the loader against a server that does nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    sink = multiprocessing.get_context("fork").Process(target=_sink, args=(listener,), daemon=True)
    sink.start()
    for size in (200, 2_000, 8_000):
        for connections in (1, 4, 16):
            queues = [[request(port, "/", bytes(size), {})] * (60_000 // connections)] * connections
            sent = send_apart(port, queues)
            print(f"{size:5} bytes, {connections:2} connections: {sent.requests / sent.took_s:7,.0f} requests/s, "
                  f"{sent.cpu_s / sent.requests * 1e6:5.1f} µs of CPU each, p50 {sent.latency_ms(0.5):.3f} ms, "
                  f"p99 {sent.latency_ms(0.99):.3f} ms")  # fmt: skip
    sink.terminate()
    sink.join()


if __name__ == "__main__":
    main()
