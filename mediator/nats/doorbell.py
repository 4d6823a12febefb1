"""NatsDoorbell: wakes the relays of other processes by core NATS messages, which the broker does not store."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable
from functools import partial

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from mediator.blocks import asynccontextmanager
from mediator.distributed.outbox import Doorbell
from mediator.errors import PublisherUnavailableError
from mediator.logger import Guard
from mediator.nats.binding import checked_prefix
from mediator.nats.connection import NatsConnection, end, keep_subscribed, listen
from mediator.owner import start_detached

_CONNECT_SECONDS = 5.0
_OPENED = b"opened"


class NatsDoorbell(Doorbell):
    """Tells other processes that events were committed. `open_doorbell` creates a `NatsDoorbell`.

    The messages to other processes have the subject `mediator-wake.<name>`.

    Args:
        connection: The connection to the broker. Messages are sent and received through the client for publishing.
        name: One token of lower-case letters, digits and hyphens. Processes with the same database need the same name.
            Processes with different databases need different names.
        pause: Seconds between two messages. Several calls of `ring` within this time become one message.

    Raises:
        SettingError: The name is not one token of lower-case letters, digits and hyphens.
    """

    def __init__(self, connection: NatsConnection, name: str, *, pause: float = 0.005) -> None:
        self._connection = connection
        self._subject = f"mediator-wake.{checked_prefix(name)}"
        self._pause = pause
        self._own = uuid.uuid4().bytes
        self._rung = asyncio.Event()
        self._client: Client | None = None
        self._listeners: list[Callable[[], None]] = []

    def ring(self) -> None:
        self._rung.set()

    def on_ring(self, listener: Callable[[], None], /) -> None:
        self._listeners.append(partial(Guard("a listener for the doorbell"), listener))

    async def send(self) -> None:
        """Send rings until cancelled."""
        while True:
            await self._rung.wait()
            self._rung.clear()
            try:
                client = await self._connection.client("publish", timeout=_CONNECT_SECONDS)
                await client.publish(self._subject, self._own)
            except (PublisherUnavailableError, nats.errors.Error, OSError):
                await asyncio.sleep(self._pause)  # losing a ring is harmless: no relay can publish without the broker
            await asyncio.sleep(self._pause)

    async def receive(self) -> None:
        """Pass rings from other processes on to the listeners, until cancelled."""
        await keep_subscribed(self._connection, "publish", self._subscribe)

    async def _subscribe(self, client: Client) -> None:
        if client is not self._client:  # a client that reconnects keeps its subscriptions
            await listen(client, self._subject, self._heard)
            self._client = client
        await client.publish(self._subject, self._own + _OPENED)  # this message comes back once the subscription works

    async def _heard(self, message: Msg) -> None:
        """Call the listeners for each ring of another process, and once after subscribing.

        The call after subscribing makes up for rings that were sent before the subscription existed.
        """
        if message.data.startswith(self._own) == message.data.endswith(_OPENED):
            for listener in self._listeners:
                listener()


@asynccontextmanager
async def open_doorbell(connection: NatsConnection, name: str) -> AsyncGenerator[NatsDoorbell, None]:
    """Open a doorbell: `doorbell = providers.Resource(open_doorbell, nats, "enrollment")`.

    Entering the block does not wait for the broker. The arguments are described at `NatsDoorbell`.
    """
    doorbell = NatsDoorbell(connection, name)
    tasks = [start_detached(work) for work in (doorbell.send(), doorbell.receive())]
    try:
        yield doorbell
    finally:
        await end(*tasks)
