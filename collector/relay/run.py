"""The life of a relay's process: opens its parts, serves until it is told to end, sends what it can, and goes."""

import asyncio
import logging
import signal
from pathlib import Path

import click
from granian.constants import Interfaces
from granian.log import LogLevels
from granian.server.embed import Server

from collector.client import Client, greet
from collector.relay.access import LOOK_UPS, Access
from collector.relay.forwarder import Forwarder
from collector.relay.service import Service
from collector.relay.spool import RelaySpool
from gigawatch.connections import BACKLOG, MOST_CONNECTIONS, allow_open_files
from gigawatch.errors import GigawatchError
from gigawatch.ports import require_free
from gigawatch.settings import Relay, Settings

ANSWER_S = 5.0
FORWARD_S = 5.0
"""At the end: how long to answer what is being taken, and to forward what waits."""
log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Relay until SIGTERM or SIGINT.

    Raises:
        GigawatchError: the port or the spool is in use, the token is refused, or the clock is off.
    """
    relay = settings.relay
    require_free(relay.host, relay.port, "relay.port", "--port")
    client = Client(settings.agent)
    hello = greet(client)
    path = Path(settings.store.data_dir).expanduser() / "relay.sqlite"
    spool = RelaySpool(path, relay.spool_max_mib, relay.spool_max_age_h)
    forwarder = Forwarder(spool, client, relay)
    asker = Client(settings.agent, LOOK_UPS)
    access = Access(asker, spool)
    click.echo(
        f"Relaying from http://{f'[{relay.host}]' if ':' in relay.host else relay.host}:{relay.port}"
        f" to {settings.agent.server_url}.",
        err=True,
    )
    allow_open_files()
    forwarder.start()
    max_clock_offset_s = hello.max_clock_offset_s if hello else settings.server.max_clock_offset_s
    service = Service(spool, access, forwarder, relay.max_body_mib, max_clock_offset_s)
    asyncio.run(_serve(relay, service, forwarder))
    access.close()
    log.info("%d batches wait for the next relay", spool.totals().batches)
    spool.close()
    asker.close()
    client.close()


async def _serve(relay: Relay, service: Service, forwarder: Forwarder) -> None:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    # In this very process: a server process of its own would outlive a killed relay, with the spool in its hands.
    server = Server(
        service,
        address=relay.host,
        port=relay.port,
        interface=Interfaces.RSGI,
        backlog=BACKLOG,
        backpressure=MOST_CONNECTIONS,
        log_level=LogLevels.error,
        websockets=False,
    )
    serving = asyncio.create_task(server.serve())
    tasks = [asyncio.create_task(work) for work in (service.commit(), service.report(), ending.wait())]
    await asyncio.wait({serving, tasks[-1]}, return_when=asyncio.FIRST_COMPLETED)
    await service.finish(ANSWER_S)
    server.stop()
    await serving
    # While the loop is there: a second signal would end the process once it is closed.
    await asyncio.to_thread(forwarder.finish, FORWARD_S)
    for task in tasks:
        task.cancel()
    if not ending.is_set():
        raise GigawatchError("The HTTP server ended by itself", "Its messages above may say why.")
