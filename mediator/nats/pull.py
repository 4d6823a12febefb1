"""Pull: what one durable consumer was asked for, and what of that is here."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from nats.aio.msg import Msg

from mediator.nats.api import NANOSECONDS
from mediator.nats.consumers import ConsumerSettings
from mediator.nats.delivery import NatsDelivery
from mediator.nats.room import Room

_SCARCE_SECONDS = 1.0
"""How long a place is kept free for what seemed to be waiting at the broker."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """How often the broker is heard of, in seconds.

    Attributes:
        expires: How long one pull request waits for deliveries.
        heartbeat: How often the broker says meanwhile that it still waits.
        silence: After how long without a word a pull request is given up for dead.
    """

    expires: float
    heartbeat: float
    silence: float


class Pull:
    """The pull requests of one durable consumer: requested and unacknowledged are at most `limit`.

    Where there are more consumers than deliveries may be here, each delivery needs a place in the room. A consumer that
    is known to have more waits for a place before it asks; an idle one asks at any time, so that it is heard of at once.

    Args:
        settings: The consumer.
        limit: How many deliveries may be here without an acknowledgement.
        cadence: How often the broker is heard of.
        room: The places shared with other consumers; `None` when there are enough.
        changed: Called when there may be something to ask for.

    Attributes:
        ready: Whether the consumer was found fit since the last trouble.
        held: What is here without an acknowledgement.
    """

    def __init__(
        self, settings: ConsumerSettings, limit: int, cadence: Cadence, room: Room | None, changed: Callable[[], None]
    ) -> None:
        self.settings = settings
        self.ready: bool = False
        self.held: set[NatsDelivery] = set()
        self.generation: int = 0
        self._limit = limit
        self._cadence = cadence
        self._room = room
        self._changed = changed
        self._requested = 0
        self._heard = 0.0
        self._more = False
        self._in_line = False
        self._place = False

    def wanted(self) -> int:
        """How many deliveries are to be asked for now."""
        room = self._limit - len(self.held) - self._requested
        if not self.ready or room <= 0 or (self._requested and room < self._limit // 2):
            return 0
        return room if self._may_ask() else 0

    def request(self, count: int, now: float) -> bytes:
        """The body of a request for so many deliveries, which is on its way from now on."""
        if not self._requested:
            self._heard = now
        self._requested += count
        body: dict[str, object] = {"batch": count}
        if self._place:
            body |= {"expires": round(_SCARCE_SECONDS * NANOSECONDS)}
        else:
            heartbeat = round(self._cadence.heartbeat * NANOSECONDS)
            body |= {"expires": round(self._cadence.expires * NANOSECONDS), "idle_heartbeat": heartbeat}
        return json.dumps(body).encode()

    def heard(self, now: float) -> None:
        """Note that the broker is alive."""
        self._heard = now

    def is_silent(self, now: float) -> bool:
        """Whether nothing was heard of a request for too long."""
        return self._requested > 0 and now >= self._heard + self._cadence.silence

    def accept(self, delivery: NatsDelivery) -> bool:
        """Keep a delivery; false when there is no room for it, and it is to be handed back."""
        self._requested = max(0, self._requested - 1)
        self._more = delivery.remaining > 0
        if len(self.held) >= self._limit:  # a request that was given up was served after all
            return False
        if self._room is not None and not self._place:
            self._place = self._room.take()
            if not self._place:
                self._more = True
                self._changed()
                return False
        self.held.add(delivery)
        self._changed()
        return True

    def settled(self, delivery: NatsDelivery) -> None:
        """Note that a delivery is here no longer."""
        if delivery in self.held:
            self.held.discard(delivery)
            self._leave_place()
            self._changed()

    def expired(self, message: Msg) -> None:
        """Note that a request has ended, and how many deliveries of it will not come."""
        unserved = (message.headers or {}).get("Nats-Pending-Messages", "")
        self._requested = max(0, self._requested - int(unserved)) if unserved.isdigit() else 0
        self._idle()

    def forget(self) -> None:
        """Give up what was requested."""
        self.generation += 1
        self._requested = 0
        self._idle()

    def _may_ask(self) -> bool:
        if self._room is None or self._place or not self._more:
            return True
        if not self._in_line:
            self._in_line = True
            self._room.ask(self._granted)  # which calls `changed`
        return False

    def _idle(self) -> None:
        if not self.held:
            self._more = False
            self._leave_place()
        self._changed()

    def _granted(self) -> None:
        self._in_line = False
        self._place = True
        if not self.ready or self.held or self._requested:  # it came too late
            self._leave_place()
        self._changed()

    def _leave_place(self) -> None:
        if self._place and self._room is not None:
            self._place = False
            self._room.give_back()
