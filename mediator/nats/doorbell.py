"""NatsDoorbell: wakes the relays of a database in other processes, by messages of core NATS that nobody stores."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from mediator.distributed.doorbell import Doorbell
from mediator.errors import PublisherUnavailableError
from mediator.nats.binding import checked_prefix
from mediator.nats.connection import NatsConnection
from mediator.nats.link import end, listen

_CONNECT_SECONDS = 5.0
_OPENED = b"opened"


class NatsDoorbell(Doorbell):
    """Rings on the subject `mediator-wake.<name>`. Made by `open_doorbell`.

    Args:
        connection: Where the broker is. Its connection for publishing is used.
        name: The same in all processes on one database, and in no others: a token like the prefix of a stream.
        pause: Rings that come within so many seconds of another one become one.

    Raises:
        SettingError: The name is no token.
    """

    def __init__(self, connection: NatsConnection, name: str, *, pause: float = 0.005) -> None:
        self._connection = connection
        self._subject = f"mediator-wake.{checked_prefix(name)}"
        self._pause = pause
        self._own = uuid.uuid4().bytes
        self._rung = asyncio.Event()
        self._connected = asyncio.Event()
        self._client: Client | None = None
        self._listeners: list[Callable[[], None]] = []

    def ring(self) -> None:
        """See `Doorbell.ring`."""
        self._rung.set()

    def on_ring(self, listener: Callable[[], None], /) -> None:
        """See `Doorbell.on_ring`."""
        self._listeners.append(listener)

    async def send(self) -> None:
        """Send what is rung, until cancelled."""
        while True:
            await self._rung.wait()
            self._rung.clear()
            try:
                client = await self._connection.client("publish", timeout=_CONNECT_SECONDS)
                await client.publish(self._subject, self._own)
            except (PublisherUnavailableError, nats.errors.Error, OSError):  # without the broker nothing can be relayed
                await asyncio.sleep(self._pause)
            await asyncio.sleep(self._pause)

    async def receive(self) -> None:
        """Pass on what others ring, until cancelled."""
        forget = self._connection.on_connect("publish", self._connected.set)
        try:
            while True:
                try:
                    client = await self._connection.client("publish", timeout=_CONNECT_SECONDS)
                    self._connected.clear()
                    await self._subscribe(client)
                except (PublisherUnavailableError, nats.errors.Error, OSError):
                    await asyncio.sleep(self._pause)
                else:
                    await self._connected.wait()
        finally:
            forget()

    async def _subscribe(self, client: Client) -> None:
        if client is not self._client:  # one that reconnects keeps its subscriptions
            await listen(client, self._subject, self._heard)
            self._client = client
        await client.publish(self._subject, self._own + _OPENED)  # comes back once the server knows the subscription

    async def _heard(self, message: Msg) -> None:
        """Pass on what others rang; and that rings are heard from now on, since one may have been missed before."""
        if message.data.startswith(self._own) == message.data.endswith(_OPENED):
            for listener in self._listeners:
                listener()


@asynccontextmanager
async def open_doorbell(connection: NatsConnection, name: str) -> AsyncGenerator[NatsDoorbell, None]:
    """Open a doorbell: `doorbell = providers.Resource(open_doorbell, nats, "enrollment")`. Returns at once.

    Args:
        connection: Where the broker is.
        name: The same in all processes on one database, and in no others.

    Raises:
        SettingError: The name is not one token of lower-case letters, digits and hyphens.
    """
    doorbell = NatsDoorbell(connection, name)
    tasks = [asyncio.create_task(work) for work in (doorbell.send(), doorbell.receive())]
    try:
        yield doorbell
    finally:
        await end(*tasks)
