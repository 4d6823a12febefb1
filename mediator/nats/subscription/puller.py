"""Puller: takes the deliveries of one group from one stream, through outages and changes of leader.

nats-py's `fetch` is not used: it costs three times as much, and does not notice that its request died with a server.
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """A limited number of slots for deliveries, granted in the order of the requests."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._line: deque[Callable[[], None]] = deque()

    def take(self) -> bool:
        """Take a slot at once; return false when none is free."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    def ask(self, granted: Callable[[], None]) -> None:
        """Queue for a slot; `granted` is called as soon as the slot is taken, possibly at once."""
        if self.take():
            granted()
        else:
            self._line.append(granted)

    def give_back(self) -> None:
        """Pass a slot to the first in the queue, or free it."""
        if self._line:
            self._line.popleft()()
        else:
            self._free += 1


_SCARCE_SECONDS = 1.0
"""How long a slot is reserved for a delivery that seems to wait at the broker, in seconds."""


@dataclass(frozen=True, slots=True)
class PullTiming:
    """The intervals of a pull request, in seconds.

    Attributes:
        expires: How long one pull request waits for deliveries.
        heartbeat: The interval at which the broker confirms that the request still waits.
        silence: After this time without a message from the broker, a pull request is given up.
    """

    expires: float
    heartbeat: float
    silence: float


class Pull:
    """The pull requests of one durable consumer: at most `limit` deliveries are requested or unacknowledged.

    Where there are more consumers than slots, each delivery needs a slot. A consumer that is known to have more
    deliveries gets a slot before it sends a request. An idle consumer sends its request without a slot, so that a new
    delivery arrives at once.

    `slots` is `None` when there are enough for every consumer. `changed` is called when there may be something to
    request.

    Attributes:
        ready: Whether the consumer was checked and has had no trouble since.
        held: The deliveries that are not acknowledged yet.
    """

    def __init__(
        self,
        settings: ConsumerSettings,
        limit: int,
        timing: PullTiming,
        slots: Slots | None,
        changed: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.ready: bool = False
        self.held: set[NatsDelivery] = set()
        self.generation: int = 0
        self._limit = limit
        self._timing = timing
        self._slots = slots
        self._changed = changed
        self._requested = 0
        self._heard = 0.0
        self._more = False
        self._in_line = False
        self._place = False

    def wanted(self) -> int:
        """Return how many deliveries to request now."""
        slots = self._limit - len(self.held) - self._requested
        if not self.ready or slots <= 0 or (self._requested and slots < self._limit // 2):
            return 0
        return slots if self._may_ask() else 0

    def request(self, count: int, now: float) -> bytes:
        """Return the body of a request for `count` deliveries, and count them as requested."""
        if not self._requested:
            self._heard = now
        self._requested += count
        body: dict[str, object] = {"batch": count}
        if self._place:
            body |= {"expires": round(_SCARCE_SECONDS * NANOSECONDS)}
        else:
            heartbeat = round(self._timing.heartbeat * NANOSECONDS)
            body |= {"expires": round(self._timing.expires * NANOSECONDS), "idle_heartbeat": heartbeat}
        return json.dumps(body).encode()

    def heard(self, now: float) -> None:
        """Record that the broker is alive."""
        self._heard = now

    def is_silent(self, now: float) -> bool:
        """Return whether the broker has been silent about a request for too long."""
        return self._requested > 0 and now >= self._heard + self._timing.silence

    def accept(self, delivery: NatsDelivery) -> bool:
        """Keep a delivery; return false when there is no slot for it and it must be handed back."""
        self._requested = max(0, self._requested - 1)
        self._more = delivery.remaining > 0
        if len(self.held) >= self._limit:  # a request that was given up has been served after all
            return False
        if self._slots is not None and not self._place:
            self._place = self._slots.take()
            if not self._place:
                self._more = True
                self._changed()
                return False
        self.held.add(delivery)
        self._changed()
        return True

    def settled(self, delivery: NatsDelivery) -> None:
        """Record that a delivery was acknowledged, handed back or given up."""
        if delivery in self.held:
            self.held.discard(delivery)
            self._leave_place()
            self._changed()

    def expired(self, message: Msg) -> None:
        """Record that a request has ended, and how many of its deliveries will not come."""
        unserved = (message.headers or {}).get("Nats-Pending-Messages", "")
        self._requested = max(0, self._requested - int(unserved)) if unserved.isdigit() else 0
        self._idle()

    def forget(self) -> None:
        """Give up the pending requests."""
        self.generation += 1
        self._requested = 0
        self._idle()

    def _may_ask(self) -> bool:
        if self._slots is None or self._place or not self._more:
            return True
        if not self._in_line:
            self._in_line = True
            self._slots.ask(self._granted)  # calls `changed`
        return False

    def _idle(self) -> None:
        if not self.held:
            self._more = False
            self._leave_place()
        self._changed()

    def _granted(self) -> None:
        self._in_line = False
        self._place = True
        if not self.ready or self.held or self._requested:  # the slot is no longer needed
            self._leave_place()
        self._changed()

    def _leave_place(self) -> None:
        if self._place and self._slots is not None:
            self._place = False
            self._slots.give_back()


_TIMINGS = {
    "none": PullTiming(expires=5.0, heartbeat=1.0, silence=2.5),
    "key": PullTiming(expires=30.0, heartbeat=2.0, silence=5.0),  # there are many consumers, mostly idle
}
_TICK = 0.5
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
_PATIENCE = 5.0
_LEAVE_SECONDS = 1.0
_ROUTINE = ("Leadership Change", "Server Shutdown")


class Puller:
    """Keeps pull requests for a group's consumers pending, all answered in one inbox.

    Two tasks run. One sets consumers up, at the start and whenever something happened to them. The other sends requests
    to the consumers that are ready. A partition whose consumer is in trouble holds up no other partition.

    Each consumer has at most `limit` unacknowledged deliveries in this process, and `slots` limits the deliveries of
    all consumers together.
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
        self._told: dict[str, str] = {}
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
        """Unsubscribe, and take the deliveries that still arrive within about a second. Call it after `run` ended."""
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
        """Give up requests that died in silence, and deliveries that the broker has redelivered elsewhere by now."""
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
                    await client.publish(subject, body, reply=self._address(number, pull))
                except (nats.errors.Error, OSError):  # the connection is lost, and logs that
                    self._lose(pull)

    def _address(self, number: int, pull: Pull) -> str:
        """Return the subject on which a consumer's current request is answered."""
        return f"{self._inbox}.{number}.{pull.generation}"

    async def _receive(self, message: Msg) -> None:
        now = asyncio.get_running_loop().time()
        address = self._delivered(message)
        if address is None:
            self._hear_status(message, now)
            return
        self._note_life()
        delivery = NatsDelivery(message, address, self._reply, self._settled)
        pull = self._by_consumer[delivery.consumer]
        pull.heard(now)
        if pull.accept(delivery):
            self._arrived(delivery)
        else:
            await delivery.nak(0)

    def _delivered(self, message: Msg) -> AckAddress | None:
        """Return the acknowledgement address of these consumers' delivery; `None` for any other message.

        The broker delivers under the subject in the stream. A stranger's message to the inbox arrives under the subject
        of the inbox, with any reply subject: acknowledging it would tell the broker that some other event took effect.
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
        addressed = (pull for number, pull in enumerate(self._pulls) if message.subject == self._address(number, pull))
        pull = next(addressed, None)
        if pull is None:  # it answers a request that was given up
            return
        pull.heard(now)
        if status == "100":
            self._note_life()
        elif status == "408":
            pull.expired(message)
        else:
            if description not in _ROUTINE:
                self._refusal = f"a pull request was refused: {status} {description}".rstrip()
            self._lose(pull)

    def _lose(self, pull: Pull) -> None:
        """Have the consumer checked again before more is requested from it."""
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
            with contextlib.suppress(nats.errors.Error, OSError):  # a lost reply: the broker redelivers
                await self._client.publish(subject, body)

    def _note_life(self) -> None:
        """Reset the pause and the reported troubles, unless a consumer is in trouble, which others cannot end."""
        if all(pull.ready for pull in self._pulls):
            self._told.clear()
            self._pause = _FIRST_PAUSE

    def _report(self, trouble: str, error: Exception) -> None:
        """Log each trouble once, until its reason changes or all consumers work again."""
        text = text_of(error) or type(error).__name__
        if text != self._told.get(trouble):
            self._told[trouble] = text
            self._log.warning(trouble, reason=text)
