"""A client of a server that comes and goes.

The server says a number now and then. The client connects when it is started, counts what it hears, and connects again
when the server is back; it ends the connection in order when it is disposed. The example starts and stops the server
itself. Needs stamina: `pip install stamina`, or the extra `states`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TypeAlias

import asyncmachine as am
from asyncmachine.states import BasicStates, ConnectedArgs, ConnectedStates, Connector

Stream: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ClientStates(BasicStates, ConnectedStates):
    """A client of one server."""

    Ready: str = am.state(extend=True, auto=True, require=[ConnectedStates.Connected])
    """The server can be listened to."""

    Heard: str = am.state(multi=True, require=[Ready])
    """The server has said something."""


class Client:
    """Listens while it is connected, and tells what happens."""

    def ConnectingState(self, e: am.Event) -> None:
        print("client: connecting")

    async def ConnectedState(self, e: am.Event) -> None:
        """Listen. Leaving Connected cancels this."""
        reader, _ = e.arg(ConnectedArgs).connection
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                e.machine.add1("Heard", {"number": int(line)})
        e.machine.add1("Disconnected")  # the other side has gone: the connector connects again

    def HeardState(self, e: am.Event) -> None:
        print(f"client: heard {e.args['number']}")

    def ReadyEnd(self, e: am.Event) -> None:
        print("client: the connection is over")


class Server:
    """A server that says numbers to whoever connects."""

    def __init__(self) -> None:
        self.port = 0
        self.number = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]  # any free one at first, the same one later
        print("server: up")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.number += 1
        writer.write(b"%d\n" % self.number)
        await reader.read()  # until the other side closes
        writer.close()

    async def stop(self) -> None:
        self.server.close()
        for writer in self.writers:
            writer.close()
        self.writers.clear()
        await self.server.wait_closed()
        print("server: down")


async def main() -> None:
    """Start the server, the client, and stop and start the server once more."""
    server = Server()

    async def connect() -> Stream:
        return await asyncio.open_connection("127.0.0.1", server.port)

    async def disconnect(stream: Stream) -> None:
        stream[1].close()
        with contextlib.suppress(ConnectionError):
            await stream[1].wait_closed()
        print("client: closed")

    # As long as it takes; a short wait, as this is an example.
    connector = Connector(connect, disconnect, attempts=None, timeout=None, wait_initial=0.01, wait_jitter=0)
    await server.start()
    async with am.Machine(ClientStates, id="client", handlers=[Client(), connector]) as client:
        heard = client.when_next_active("Heard")
        client.add1("Start")
        await heard

        lost = client.when_not1("Connected")
        await server.stop()
        await lost
        heard = client.when_next_active("Heard")
        await server.start()
        await heard
        print("client:", *client.active_states(ClientStates.Connection))
    await server.stop()


if __name__ == "__main__":
    logging.getLogger("stamina").setLevel(logging.ERROR)  # it would tell of each attempt
    am.run(main)
