"""Sends prepared HTTP requests over a few connections, as cheaply as Python can, and says how long answers took.

One request after the other on each connection, each acknowledged before the next: as agents do. It costs about 15 µs a
request (`python -m bench.loader` measures it against a sink), so that the server is what is measured.
"""

import multiprocessing
import resource
import select
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection

from msgspec import Struct


class Sent(Struct, frozen=True):
    """What became of some requests."""

    requests: int
    refused: int
    """Answered with another status than 2xx, Retry-After not counted."""
    retried: int
    took_s: float
    cpu_s: float
    """Of the loader."""
    latencies_ms: list[float]
    """Sorted."""

    def latency_ms(self, share: float) -> float:
        """A quantile."""
        return self.latencies_ms[min(len(self.latencies_ms) - 1, int(share * len(self.latencies_ms)))]


def request(port: int, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A POST, head and body."""
    lines = [f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def send(port: int, queues: Sequence[Sequence[bytes]]) -> Sent:
    """Send each queue's requests over a connection of its own, all at the same time."""
    poll = select.epoll()
    lanes: dict[int, _Lane] = {}
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    for requests in queues:
        lane = _Lane(port, requests)
        lanes[lane.socket.fileno()] = lane
        poll.register(lane.socket, select.EPOLLIN)
        lane.send()
    open_lanes = len(lanes)
    while open_lanes:
        for number, _ in poll.poll():
            lane = lanes[number]
            if lane.receive() and not lane.send():
                poll.unregister(lane.socket)
                lane.socket.close()
                open_lanes -= 1
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    done = lanes.values()
    return Sent(
        sum(len(lane.latencies_ms) for lane in done), sum(lane.refused for lane in done),
        sum(lane.retried for lane in done), took_s, cpu_s, sorted(ms for lane in done for ms in lane.latencies_ms),
    )  # fmt: skip


class _Lane:
    """One connection and what is to be sent over it."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = requests
        self._next = 0
        self._began_s = 0.0
        self._answer = b""
        self.refused = 0
        self.retried = 0
        self.latencies_ms: list[float] = []

    def send(self) -> bool:
        """Send the next request; False: there is none."""
        if self._next == len(self._requests):
            return False
        self._began_s = time.perf_counter()
        self.socket.sendall(self._requests[self._next])
        return True

    def receive(self) -> bool:
        """Take what arrived; whether the answer is whole."""
        part = self.socket.recv(1 << 18)
        if not part:
            raise ConnectionError("the server closed the connection")
        self._answer += part
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        lower = head.lower()
        place = lower.find(b"content-length:")
        length = int(lower[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if not separator or len(body) < length:
            return False
        status = head[9:12]
        self._answer = b""
        if status in {b"503", b"429"}:
            self.retried += 1
            time.sleep(0.05)
            return True
        if status[:1] != b"2":
            self.refused += 1
            if self.refused == 1 and len(self._requests) == self._next + 1:
                print(head.decode(), body[:500].decode())
        self.latencies_ms.append((time.perf_counter() - self._began_s) * 1_000)
        self._next += 1
        return True


def send_apart(port: int, queues: Sequence[Sequence[bytes]]) -> Sent:
    """send() in a process of its own, so that its time is counted apart and nobody's lock is held."""
    ours, theirs = multiprocessing.Pipe()
    # Forked: the prepared requests need not be copied.
    process = multiprocessing.get_context("fork").Process(target=_child, args=(theirs, port, queues))
    process.start()
    sent: Sent = ours.recv()
    process.join()
    return sent


def _child(answer: Connection, port: int, queues: Sequence[Sequence[bytes]]) -> None:
    answer.send(send(port, queues))


def cpu_s(pids: Sequence[int]) -> float:
    """CPU time that processes have used, s; what has ended counts with its parent."""
    tick = 100
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as stat:  # noqa: PTH123
                fields = stat.read().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / tick


def _sink() -> None:
    """Measure the loader against a server that does nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def serve() -> None:
        poll = select.epoll()
        poll.register(listener, select.EPOLLIN)
        known: dict[int, socket.socket] = {}
        while True:
            for number, _ in poll.poll():
                if number == listener.fileno():
                    new, _ = listener.accept()
                    known[new.fileno()] = new
                    poll.register(new, select.EPOLLIN)
                elif known[number].recv(1 << 18):
                    known[number].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                else:
                    poll.unregister(number)

    process = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
    process.start()
    body = request(port, "/", bytes(2_000), {})
    sent = send(port, [[body] * 10_000] * 8)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{sent.requests / sent.took_s:.0f} requests/s, {sent.cpu_s / sent.requests * 1e6:.1f} µs each, "
          f"{used.ru_maxrss / 1024:.0f} MiB")  # fmt: skip
    process.terminate()


if __name__ == "__main__":
    _sink()
