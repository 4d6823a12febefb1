"""Puller: pulls the deliveries of one group from one stream, and continues after outages of the broker.

nats-py's `fetch` is not used: `fetch` takes three times as long as this module, and keeps waiting for an answer when the
server has stopped.
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from mediator.errors import GroupOrderingError, PublisherUnavailableError
from mediator.logger import Logger, RateLimitedLogger
from mediator.nats.connection import NatsConnection, listen, withdraw
from mediator.nats.subjects import AckAddress, ack_address, new_inbox
from mediator.nats.subscription.delivery import NatsDelivery
from mediator.nats.subscription.group import ConsumerGroup
from mediator.nats.topology import NANOSECONDS, ConsumerSettings
from mediator.printable import shown, text_of


class Slots:
    """Limits the deliveries of several consumers together: each delivery needs one of `count` slots.

    Consumers get slots in the order in which they ask for slots.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._queue: deque[Callable[[], None]] = deque()
        self._is_granting = False

    def take(self) -> bool:
        """Take a free slot; return whether there was a free slot."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    def ask(self, granted: Callable[[], None]) -> None:
        """If a slot is free, take the slot and call `granted`. If not, do so when another consumer gives a slot back."""
        if self.take():
            granted()
        else:
            self._queue.append(granted)

    def give_back(self) -> None:
        """Give a slot back. The slot goes to the first waiting caller of `ask`. If no caller waits, the slot is free.

        Some callers no longer need the slot when the slot is granted. Such a caller calls `give_back` at once, and the
        loop grants the slot to the next caller. If each call granted the slot itself, hundreds of such callers would
        exceed the recursion limit.
        """
        self._free += 1
        if self._is_granting:
            return
        self._is_granting = True
        try:
            while self._queue and self.take():
                self._queue.popleft()()
        finally:
            self._is_granting = False


_SLOT_SECONDS = 1.0
"""Seconds for which a pull request with a slot waits for a delivery."""


@dataclass(frozen=True, slots=True)
class PullTiming:
    """The intervals of a pull request, in seconds.

    Attributes:
        expires: How long one pull request waits for deliveries.
        heartbeat: The interval at which the broker confirms that the request is still open.
        silence: After this time without a message from the broker, a pull request is abandoned.
    """

    expires: float
    heartbeat: float
    silence: float


@dataclass(eq=False, repr=False)
class Pull:
    """The state of the pull requests to one durable consumer.

    The requested and the unacknowledged deliveries together are at most `limit`.

    With `slots`, each delivery needs a slot. If the consumer is known to have more deliveries, a request takes a slot
    before it is sent. If not, the request is sent without a slot, and waits at the broker for the next event. The
    delivery of this event takes a slot on arrival. If no slot is free, the delivery is handed back to the broker.

    `changed` is called when there may be something to request.

    A paused pull sends no request, and keeps a slot only for a delivery that it holds or has requested.

    Attributes:
        ready: Whether the consumer is set up. After an error, the consumer has to be set up again.
        held: The deliveries that are not acknowledged yet.
        generation: How often requests were abandoned. This number is part of the subject for answers, so that an answer
            to an abandoned request is recognized.
    """

    settings: ConsumerSettings
    _limit: int
    _timing: PullTiming
    _slots: Slots | None
    _changed: Callable[[], None]
    ready: bool = False
    held: set[NatsDelivery] = field(default_factory=set[NatsDelivery])
    generation: int = 0
    _requested: int = 0
    _heard: float = 0.0
    _has_more: bool = False
    _queued: bool = False
    _has_slot: bool = False
    _is_paused: bool = False

    def wanted(self) -> int:
        """Return the number of deliveries to request now."""
        count = self._limit - len(self.held) - self._requested
        if self._is_paused or not self.ready or count <= 0 or (self._requested and count < self._limit // 2):
            return 0
        return count if self._may_ask() else 0

    def pause(self) -> None:
        """Request nothing until `resume` is called. Deliveries that are requested already are still accepted."""
        self._is_paused = True
        if not (self.held or self._requested):
            self._give_back_slot()

    def resume(self) -> None:
        """Request deliveries again."""
        if self._is_paused:
            self._is_paused = False
            self._changed()

    def request(self, count: int, now: float) -> bytes:
        """Return the body of a request for `count` deliveries, and count these deliveries as requested."""
        if not self._requested:
            self._heard = now
        self._requested += count
        body: dict[str, object] = {"batch": count}
        if self._has_slot:
            body |= {"expires": round(_SLOT_SECONDS * NANOSECONDS)}
        else:
            heartbeat = round(self._timing.heartbeat * NANOSECONDS)
            body |= {"expires": round(self._timing.expires * NANOSECONDS), "idle_heartbeat": heartbeat}
        return json.dumps(body).encode()

    def heard(self, now: float) -> None:
        """Record that the broker has sent a message."""
        self._heard = now

    def is_silent(self, now: float) -> bool:
        """Return whether the broker has sent nothing for too long, although deliveries are requested."""
        return self._requested > 0 and now >= self._heard + self._timing.silence

    def accept(self, delivery: NatsDelivery) -> bool:
        """Hold a delivery and return true; return false when the delivery exceeds a limit and must be handed back."""
        self._requested = max(0, self._requested - 1)
        self._has_more = delivery.remaining > 0
        if len(self.held) >= self._limit:  # the delivery answers a request that was abandoned
            return False
        if self._slots is not None and not self._has_slot:
            self._has_slot = self._slots.take()
            if not self._has_slot:
                self._has_more = True
                self._changed()
                return False
        self.held.add(delivery)
        self._changed()
        return True

    def settled(self, delivery: NatsDelivery) -> None:
        """Stop holding a delivery that was settled or is overdue."""
        if delivery in self.held:
            self.held.discard(delivery)
            self._give_back_slot()
            self._changed()

    def expired(self, message: Msg) -> None:
        """Record that a request has expired. The message states how many requested deliveries were not sent."""
        unserved = (message.headers or {}).get("Nats-Pending-Messages", "")
        self._requested = max(0, self._requested - int(unserved)) if unserved.isdigit() else 0
        self._idle()

    def forget(self) -> None:
        """Abandon all pending requests."""
        self.generation += 1
        self._requested = 0
        self._idle()

    def _may_ask(self) -> bool:
        if self._slots is None or self._has_slot or not self._has_more:
            return True
        if not self._queued:
            self._queued = True
            self._slots.ask(self._granted)  # `_granted` calls `changed`, and the puller sends the request
        return False

    def _idle(self) -> None:
        if not self.held:
            self._has_more = False
            self._give_back_slot()
        self._changed()

    def _granted(self) -> None:
        self._queued = False
        self._has_slot = True
        if self._is_paused or not self.ready or self.held or self._requested:  # the slot is no longer needed
            self._give_back_slot()
        self._changed()

    def _give_back_slot(self) -> None:
        if self._has_slot and self._slots is not None:
            self._has_slot = False
            self._slots.give_back()


_TIMINGS = {
    "none": PullTiming(expires=5.0, heartbeat=1.0, silence=2.5),
    "key": PullTiming(expires=30.0, heartbeat=2.0, silence=5.0),  # longer intervals, because most partitions are idle
}
_TICK = 0.5
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
_PATIENCE = 5.0
_LEAVE_SECONDS = 1.0
_ROUTINE = ("Leadership Change", "Server Shutdown")
"""Reasons with which the broker ends requests in normal operation. These reasons are not logged."""


class Puller:
    """Sends pull requests to a group's consumers, and receives all deliveries in one inbox.

    One task sets up the consumers at the start, and again after an error. A second task sends requests to the consumers
    that are set up. An error of one consumer does not delay the other consumers.

    In this process, each consumer has at most `limit` unacknowledged deliveries. `slots` limits the deliveries of all
    consumers together. `arrived` is called with each delivery.
    """

    def __init__(
        self,
        connection: NatsConnection,
        group: ConsumerGroup,
        limit: int,
        slots: Slots | None,
        arrived: Callable[[NatsDelivery], None],
    ) -> None:
        self._connection = connection
        self._group = group
        self._arrived = arrived
        self._log = RateLimitedLogger(Logger(broker=connection.broker, stream=group.stream, group=group.name))
        self._wake = asyncio.Event()
        self._broken = asyncio.Event()
        self._broken.set()
        timing = _TIMINGS[group.ordering]
        self._pulls = [Pull(each, limit, timing, slots, self._wake.set) for each in group.consumers()]
        self._by_consumer = {pull.settings.name: pull for pull in self._pulls}
        self._client: Client | None = None
        self._subscription: Subscription | None = None
        self._inbox = ""
        self._reported: dict[str, str] = {}
        self._refusal = ""
        self._pause = _FIRST_PAUSE

    async def run(self) -> None:
        """Pull until cancelled, also after outages of the broker."""
        forget_connects = self._connection.on_connect("consume", self._lose_all)
        forget_disconnects = self._connection.on_disconnect("consume", self._lose_all)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_set_up(), name="mediator nats consumers")
                tasks.create_task(self._keep_pulling(), name="mediator nats pulls")
        finally:
            forget_connects()
            forget_disconnects()

    def pause(self) -> None:
        """Send no more requests, also after an outage, until `resume` is called.

        The broker may still answer the requests that it has. These requests ask for at most `limit` deliveries of each
        consumer, and expire within seconds (see `PullTiming`).
        """
        for pull in self._pulls:
            pull.pause()

    def resume(self) -> None:
        """Send requests again, at once."""
        for pull in self._pulls:
            pull.resume()

    async def leave(self) -> None:
        """Unsubscribe after `run` has ended, and pass on the deliveries that still arrive within about a second."""
        if self._client is not None and self._subscription is not None and self._client.is_connected:
            await withdraw(self._client, [self._subscription], _LEAVE_SECONDS)

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
            except PublisherUnavailableError:  # the connection has logged the error
                await asyncio.sleep(_FIRST_PAUSE)

    async def _set_up(self, client: Client) -> None:
        epoch, broker = self._connection.epoch("consume"), self._connection.broker
        self._broken.clear()
        try:
            mismatch = await self._group.ensure_stream(client, broker)
            if mismatch is not None:
                self._report("the stream differs", mismatch)
            if self._client is not client:
                inbox = new_inbox(client)
                self._subscription = await listen(client, f"{inbox}.*.*", self._receive)
                self._client, self._inbox = client, inbox
            await self._set_up_consumers(client, epoch, [pull for pull in self._pulls if not pull.ready])
        except BaseException:
            self._broken.set()
            raise

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

    async def _keep_pulling(self) -> None:
        loop = asyncio.get_running_loop()
        next_progress = loop.time() + self._group.ack_wait / 3
        while True:
            self._wake.clear()
            await self._ask_for_more(loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_TICK, max(0.0, next_progress - loop.time()))):
                    await self._wake.wait()
            now = loop.time()
            self._abandon_overdue(now)
            if now >= next_progress:
                next_progress = now + self._group.ack_wait / 3
                await self._report_progress()

    def _abandon_overdue(self, now: float) -> None:
        """Abandon requests that the broker does not answer, and fetched deliveries whose `ack_wait` is over."""
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
                    await client.publish(subject, body, reply=self._answer_subject(number, pull))
                except (nats.errors.Error, OSError):  # the connection has logged the error
                    self._lose(pull)

    def _answer_subject(self, number: int, pull: Pull) -> str:
        """Return the subject on which the broker answers a consumer's current requests."""
        return f"{self._inbox}.{number}.{pull.generation}"

    async def _receive(self, message: Msg) -> None:
        now = asyncio.get_running_loop().time()
        address = self._delivery_address(message)
        if address is None:
            self._hear_status(message, now)
            return
        self._note_success()
        delivery = NatsDelivery(message, address, self._reply, self._settled)
        pull = self._by_consumer[delivery.consumer]
        pull.heard(now)
        if pull.accept(delivery):
            self._arrived(delivery)
        else:
            await delivery.nak(0)

    def _delivery_address(self, message: Msg) -> AckAddress | None:
        """Return the address at which to acknowledge a delivery; `None` when the message is not a delivery.

        A delivery has the subject of its event. A message with the inbox's own subject is not a delivery: any client may
        send such a message, with any reply subject. An answer on this reply subject could acknowledge an event that this
        process never received.
        """
        address = ack_address(message.reply)
        if address is None or message.subject.startswith(f"{self._inbox}."):
            return None
        return address if address.stream == self._group.stream and address.consumer in self._by_consumer else None

    def _hear_status(self, message: Msg, now: float) -> None:
        headers = message.headers or {}
        status, description = headers.get("Status", ""), headers.get("Description", "")
        if message.reply or not status:
            self._log.warning(
                "message to the inbox ignored", subject=shown(message.subject), reply=shown(message.reply)
            )
            return
        addressed = (
            pull for number, pull in enumerate(self._pulls) if message.subject == self._answer_subject(number, pull)
        )
        pull = next(addressed, None)
        if pull is None:  # the message answers a request that was abandoned
            return
        pull.heard(now)
        if status == "100":
            self._note_success()
        elif status == "408":
            pull.expired(message)
        else:
            if description not in _ROUTINE:
                self._refusal = f"a pull request was refused: {status} {description}".rstrip()
            self._lose(pull)

    def _lose(self, pull: Pull) -> None:
        """Abandon the requests to a consumer, and set the consumer up again before the next request."""
        pull.ready = False
        pull.forget()
        self._broken.set()

    def _lose_all(self) -> None:
        for pull in self._pulls:
            self._lose(pull)

    def _settled(self, delivery: NatsDelivery) -> None:
        self._by_consumer[delivery.consumer].settled(delivery)

    async def _report_progress(self) -> None:
        """Prevent the broker from redelivering deliveries that wait in this process."""
        for pull in self._pulls:
            for delivery in tuple(pull.held):
                if delivery.unread:
                    await delivery.in_progress()

    async def _reply(self, subject: str, body: bytes) -> None:
        if self._client is not None:
            with contextlib.suppress(nats.errors.Error, OSError):  # without this reply, the broker redelivers
                await self._client.publish(subject, body)

    def _note_success(self) -> None:
        """When all consumers are ready, forget the logged errors, and reset the pause after an error."""
        if all(pull.ready for pull in self._pulls):
            self._reported.clear()
            self._pause = _FIRST_PAUSE

    def _report(self, event: str, error: Exception) -> None:
        """Log an error under the name `event`, unless the last log line with this name had the same reason."""
        reason = text_of(error) or type(error).__name__
        if reason != self._reported.get(event):
            self._reported[event] = reason
            self._log.warning(event, reason=reason)
