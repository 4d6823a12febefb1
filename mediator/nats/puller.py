"""Puller: takes the deliveries of one group from one stream, through outages and changes of leader.

`fetch` of nats-py is not used: it costs three times as much, and does not notice that its request died with a server.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mediator.errors import GroupOrderingError, PublisherUnavailableError
from mediator.nats.connection import NatsConnection
from mediator.nats.delivery import NatsDelivery
from mediator.nats.group import ConsumerGroup
from mediator.nats.link import listen, withdraw
from mediator.nats.pull import Cadence, Pull
from mediator.nats.room import Room

_CADENCES = {
    "none": Cadence(expires=5.0, heartbeat=1.0, silence=2.5),
    "key": Cadence(expires=30.0, heartbeat=2.0, silence=5.0),  # there are many, mostly idle
}
_TICK = 0.5
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
_PATIENCE = 5.0
_LEAVE_SECONDS = 1.0
_ROUTINE = ("Leadership Change", "Server Shutdown")


class Puller:
    """Keeps pull requests of a group's consumers outstanding, all answered in one inbox.

    Two tasks: one sets consumers up, at the start and whenever something happened to them; the other asks the consumers
    that are ready. A partition whose consumer is in trouble holds up no other.

    Args:
        connection: Where the broker is.
        group: The consumers.
        limit: How many deliveries of one consumer may be here without an acknowledgement.
        room: How many of all consumers may be; `None` when there is no need to count them.
        arrived: Takes each delivery.
    """

    def __init__(
        self,
        connection: NatsConnection,
        group: ConsumerGroup,
        limit: int,
        room: Room | None,
        arrived: Callable[[NatsDelivery], None],
    ) -> None:
        self._connection = connection
        self._group = group
        self._arrived = arrived
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger("mediator").bind(
            broker=connection.broker, stream=group.stream, group=group.name
        )
        self._wake = asyncio.Event()
        self._broken = asyncio.Event()
        self._broken.set()
        cadence = _CADENCES[group.ordering]
        self._pulls = [Pull(each, limit, cadence, room, self._wake.set) for each in group.consumers()]
        self._by_consumer = {pull.settings.name: pull for pull in self._pulls}
        self._client: Client | None = None
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._trouble = ""
        self._refusal = ""
        self._pause = _FIRST_PAUSE

    async def run(self) -> None:
        """Pull until cancelled, through outages of the broker."""
        forget_connects = self._connection.on_connect("consume", self._lose_all)
        forget_disconnects = self._connection.on_disconnect("consume", self._lose_all)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_set_up(), name="mediator nats consumers")
                tasks.create_task(self._keep_asking(), name="mediator nats pulls")
        finally:
            forget_connects()
            forget_disconnects()

    async def leave(self) -> None:
        """Stop what was requested and take what is still coming, within about a second. `run` has ended before."""
        client, subscription = self._client, self._subscription
        if client is None or subscription is None or not client.is_connected:
            return
        await withdraw(client, [subscription], _LEAVE_SECONDS)

    async def _keep_set_up(self) -> None:
        while True:
            await self._broken.wait()
            try:
                self._raise_refusal()
                await self._set_up(await self._connected())
            except (PublisherUnavailableError, GroupOrderingError, nats.errors.Error, OSError) as error:
                self._report("not consuming", error)
                await asyncio.sleep(self._pause)
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _raise_refusal(self) -> None:
        refusal, self._refusal = self._refusal, ""
        if refusal:
            raise PublisherUnavailableError(self._connection.broker, refusal)

    async def _connected(self) -> Client:
        while True:
            try:
                return await self._connection.client("consume", timeout=_PATIENCE)
            except PublisherUnavailableError:  # the connection has logged it
                await asyncio.sleep(_FIRST_PAUSE)

    async def _set_up(self, client: Client) -> None:
        epoch, broker = self._connection.epoch("consume"), self._connection.broker
        self._broken.clear()
        try:
            mismatch = await self._group.ensure_stream(client, broker)
            if mismatch is not None:
                self._report("the stream differs", mismatch)
            if self._client is not client:
                inbox = client.new_inbox()
                self._subscription = await listen(client, f"{inbox}.*.*", self._receive)
                self._client, self._inbox = client, inbox
            await self._set_up_consumers(client, epoch, [pull for pull in self._pulls if not pull.ready])
        except BaseException:
            self._broken.set()
            raise
        self._group.begun()

    async def _set_up_consumers(self, client: Client, epoch: int, pulls: Sequence[Pull]) -> None:
        async def set_up(pull: Pull) -> None:
            await self._group.ensure(client, pull.settings, self._connection.broker)
            if epoch == self._connection.epoch("consume"):
                pull.ready = True
                self._wake.set()

        outcomes = await asyncio.gather(*map(set_up, pulls), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    async def _keep_asking(self) -> None:
        loop = asyncio.get_running_loop()
        sign_of_life = loop.time() + self._group.ack_wait / 3
        while True:
            self._wake.clear()
            await self._ask_for_more(loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_TICK, max(0.0, sign_of_life - loop.time()))):
                    await self._wake.wait()
            now = loop.time()
            self._look_after(now)
            if now >= sign_of_life:
                sign_of_life = now + self._group.ack_wait / 3
                await self._keep_waiting()

    def _look_after(self, now: float) -> None:
        """Give up requests that died in silence, and deliveries that the broker has given to somebody else by now."""
        overdue = time.monotonic() - self._group.ack_wait
        for pull in self._pulls:
            if pull.is_silent(now):
                pull.forget()
            for delivery in tuple(pull.held):
                if delivery.seen < overdue and not delivery.unread:
                    pull.settled(delivery)

    async def _ask_for_more(self, now: float) -> None:
        client = self._client
        for number, pull in enumerate(self._pulls):
            count = pull.wanted()
            if count and client is not None:
                body = pull.request(count, now)
                subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._group.stream}.{pull.settings.name}"
                try:
                    await client.publish(subject, body, reply=f"{self._inbox}.{number}.{pull.generation}")
                except (nats.errors.Error, OSError):  # the connection is lost, and logs that
                    self._lose(pull)

    async def _receive(self, message: Msg) -> None:
        now = asyncio.get_running_loop().time()
        if not message.reply.startswith("$JS.ACK."):
            self._hear_status(message, now)
            return
        self._trouble = ""
        self._pause = _FIRST_PAUSE
        delivery = NatsDelivery(message, self._reply, self._settled)
        pull = self._by_consumer[delivery.consumer]
        pull.heard(now)
        if pull.accept(delivery):
            self._arrived(delivery)
        else:
            await delivery.nak(0)

    def _hear_status(self, message: Msg, now: float) -> None:
        headers = message.headers or {}
        status, description = headers.get("Status", ""), headers.get("Description", "")
        number, generation = message.subject.rsplit(".", 2)[1:]
        pull = self._pulls[int(number)]
        if generation != str(pull.generation):
            return
        pull.heard(now)
        if status == "100":
            self._pause = _FIRST_PAUSE
        elif status == "408":
            pull.expired(message)
        else:
            if description not in _ROUTINE:
                self._refusal = f"a pull request was refused: {status} {description}".rstrip()
            self._lose(pull)

    def _lose(self, pull: Pull) -> None:
        """Have the consumer looked at again before more is asked of it."""
        pull.ready = False
        pull.forget()
        self._broken.set()

    def _lose_all(self) -> None:
        for pull in self._pulls:
            self._lose(pull)

    def _settled(self, delivery: NatsDelivery) -> None:
        self._by_consumer[delivery.consumer].settled(delivery)

    async def _keep_waiting(self) -> None:
        for pull in self._pulls:
            for delivery in tuple(pull.held):
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
