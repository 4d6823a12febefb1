"""Puller: takes the messages of one durable consumer, never more than there is room for.

Pull requests go out on an inbox of its own with a callback, which is three times as fast as `fetch` of nats-py. They
expire after 5 s and ask for heartbeats, so that a request that died with a server or a connection is noticed.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Collection

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mediator.errors import PublisherUnavailableError, StreamMismatchError
from mediator.nats.binding import context_of, stream_name
from mediator.nats.connection import NatsConnection
from mediator.nats.consumers import ConsumerSettings, ensure_consumer
from mediator.nats.delivery import NatsDelivery
from mediator.nats.link import ask, listen
from mediator.nats.streams import StreamSettings, ensure_stream

_NANOSECONDS = 1_000_000_000
_EXPIRES = 5.0
_HEARTBEAT = 1.0
_SILENCE = 2.5
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
_PATIENCE = 5.0
_LEAVE_SECONDS = 1.0


class Puller:
    """Keeps pull requests of one consumer outstanding: requested, waiting and unacknowledged are at most `limit`.

    Args:
        connection: Where the broker is.
        group: The name of the durable consumer.
        event_types: The event types wanted, all of one context.
        prefix: The first token of streams and subjects.
        provision: Create the stream when it is missing.
        settings: How it is created.
        ack_wait: After how long without an acknowledgement the broker delivers again, in seconds.
        limit: How many deliveries may be here without an acknowledgement.
        arrived: Takes each delivery.
    """

    def __init__(
        self,
        connection: NatsConnection,
        group: str,
        event_types: Collection[str],
        *,
        prefix: str,
        provision: bool,
        settings: StreamSettings,
        ack_wait: float,
        limit: int,
        arrived: Callable[[NatsDelivery], None],
    ) -> None:
        self._connection = connection
        self._group = group
        self._prefix = prefix
        self._context = context_of(next(iter(event_types)))
        self._stream = stream_name(prefix, self._context)
        self._subjects = [f"{prefix}.{event_type}.*" for event_type in event_types]
        self._provision = provision
        self._settings = settings
        self._ack_wait = ack_wait
        self._limit = limit
        self._arrived = arrived
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator").bind(
            broker=connection.broker, stream=self._stream, group=group
        )
        self._trouble = ""
        self._refusal = ""
        self._pause = _FIRST_PAUSE
        self._client: Client | None = None
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._generation = 0
        self._requested = 0
        self._held: set[NatsDelivery] = set()
        self._last_heard = 0.0
        self._interrupted = False
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Pull until cancelled, through outages of the broker."""
        forget_connects = self._connection.on_connect("consume", self._interrupt)
        forget_disconnects = self._connection.on_disconnect("consume", self._interrupt)
        try:
            while True:
                try:
                    client = await self._set_up()
                    await self._pull_until_interrupted(client)
                except (PublisherUnavailableError, nats.errors.Error, OSError) as error:
                    self._report("not consuming", error)
                    await asyncio.sleep(self._pause)
                    self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        finally:
            forget_connects()
            forget_disconnects()

    async def leave(self) -> None:
        """Stop what was requested and take what is still coming, within about a second. `run` has ended before."""
        client, subscription = self._client, self._subscription
        if client is None or subscription is None or not client.is_connected:
            return
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await _withdraw(client, subscription)
                # what was sent before the server knew arrives before the answer to this request
                with contextlib.suppress(nats.errors.Error):
                    await ask(client, "$JS.API.INFO", b"", _LEAVE_SECONDS / 2)
                while subscription.pending_msgs:  # noqa: ASYNC110  # nats-py has no event for it
                    await asyncio.sleep(0)
        with contextlib.suppress(nats.errors.Error, OSError):
            await subscription.unsubscribe()

    async def _connected(self) -> Client:
        while True:
            try:
                return await self._connection.client("consume", timeout=_PATIENCE)
            except PublisherUnavailableError:  # the connection has logged it
                await asyncio.sleep(_FIRST_PAUSE)

    async def _set_up(self) -> Client:
        client = await self._connected()
        self._interrupted = False
        self._refusal = ""
        self._forget_requests()
        broker = self._connection.broker
        try:
            await ensure_stream(
                client, self._prefix, self._context, self._settings, provision=self._provision, broker=broker
            )
        except StreamMismatchError as error:  # its publisher's business: nothing here depends on the settings
            self._report("the stream differs", error)
        settings = ConsumerSettings(self._group, self._subjects, ack_wait=self._ack_wait)
        await ensure_consumer(client, self._stream, settings, broker=broker)
        if self._client is not client:
            inbox = client.new_inbox()
            self._subscription = await listen(client, f"{inbox}.*", self._receive)
            self._client, self._inbox = client, inbox
        return client

    async def _pull_until_interrupted(self, client: Client) -> None:
        loop = asyncio.get_running_loop()
        next_sign_of_life = loop.time() + self._ack_wait / 3
        while not self._interrupted:
            self._wake.clear()
            await self._request(client)
            deadline = min(next_sign_of_life, self._last_heard + _SILENCE) if self._requested else next_sign_of_life
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._wake.wait()
            now = loop.time()
            if self._requested and now >= self._last_heard + _SILENCE:
                self._forget_requests()
            if now >= next_sign_of_life:
                next_sign_of_life = now + self._ack_wait / 3
                await self._keep_waiting()
        if self._refusal:
            raise PublisherUnavailableError(self._connection.broker, self._refusal)

    async def _request(self, client: Client) -> None:
        room = self._limit - len(self._held) - self._requested
        if room <= 0 or (self._requested and room < self._limit // 2):
            return
        if not self._requested:
            self._last_heard = asyncio.get_running_loop().time()
        body = {
            "batch": room,
            "expires": round(_EXPIRES * _NANOSECONDS),
            "idle_heartbeat": round(_HEARTBEAT * _NANOSECONDS),
        }
        self._requested += room
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._group}"
        await client.publish(subject, json.dumps(body).encode(), reply=f"{self._inbox}.{self._generation}")

    async def _receive(self, message: Msg) -> None:
        self._last_heard = asyncio.get_running_loop().time()
        if not message.reply.startswith("$JS.ACK."):
            self._hear_status(message)
            return
        self._trouble = ""
        self._pause = _FIRST_PAUSE
        self._requested = max(0, self._requested - 1)
        delivery = NatsDelivery(message, self._reply, self._settled)
        if len(self._held) >= self._limit:  # a request that was given up was served after all
            await delivery.nak(0)
            return
        self._held.add(delivery)
        self._wake.set()
        self._arrived(delivery)

    def _hear_status(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status == "100" or message.subject.rpartition(".")[2] != str(self._generation):
            return
        unserved = headers.get("Nats-Pending-Messages", "")
        if status == "408" and unserved.isdigit():
            self._requested = max(0, self._requested - int(unserved))
            self._wake.set()
            return
        self._refusal = f"a pull request was refused: {status} {headers.get('Description', '')}".rstrip()
        self._interrupt()

    def _interrupt(self) -> None:
        """Have stream, consumer and pull requests looked at again."""
        self._interrupted = True
        self._wake.set()

    def _forget_requests(self) -> None:
        self._generation += 1
        self._requested = 0
        self._wake.set()

    def _settled(self, delivery: NatsDelivery) -> None:
        self._held.discard(delivery)
        self._wake.set()

    async def _keep_waiting(self) -> None:
        for delivery in tuple(self._held):
            if delivery.unread:
                await delivery.in_progress()

    async def _reply(self, subject: str, body: bytes) -> None:
        if self._client is not None:
            with contextlib.suppress(nats.errors.Error, OSError):  # lost: the broker delivers again
                await self._client.publish(subject, body)

    def _report(self, trouble: str, error: Exception) -> None:
        """Log a trouble once, until another comes or something arrives."""
        text = str(error) or type(error).__name__
        if text != self._trouble:
            self._trouble = text
            self._log.warning(trouble, reason=text)


async def _withdraw(client: Client, subscription: Subscription) -> None:
    """Tell the server that nothing more is wanted, and still take what is on its way.

    nats-py has no public way: `unsubscribe` drops what arrives after it, and `drain` waits for a `flush`, which must not
    be given a deadline.
    """
    await client._send_unsubscribe(subscription._id)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # see above
