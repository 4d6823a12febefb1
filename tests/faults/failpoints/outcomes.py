"""Outcomes: the rows and messages that each kind of failure at each failpoint leaves."""

from dataclasses import dataclass, replace

from tests.faults.failpoints.places import Left

NOTHING = Left()
COMMITTED = Left(orders=1, outbox=1)
NOTED = replace(COMMITTED, notes=1)
DELIVERED = Left(orders=1, stream=1)
LOST = Left(orders=1)
"""Direct delivery loses the event, because it has no outbox."""
SENT = Left(orders=1, archive=1, stream=1)
"""The relay has sent and archived the event."""
SENT_UNKNOWN = Left(orders=1, outbox=1, stream=1)
"""The broker has stored the event, and the relay does not know it."""
TAKEN = replace(SENT, inbox=1, effects=1, outbox=1)
"""The consumer's transaction: the inbox row, the effect and the following event, all together."""
COUNTED = replace(SENT, attempts=1)
PARKED = replace(SENT, inbox=1, parked=1)
WAITS = replace(PARKED, waiting=1)
"""The event is set aside until its consumer tries it again by itself."""
FOLLOWED = Left(orders=2, archive=2, stream=2, inbox=2, parked=2, waiting=1)
"""The event is set aside, and a later event of its key is parked behind it."""
RELEASED = replace(FOLLOWED, outbox=1, effects=1, parked=1)
"""The later try of the first event has succeeded, and the second event is due."""
HELD = replace(PARKED, held=1)
"""The event is held by the circuit of its handler."""
BOTH_TAKEN = replace(FOLLOWED, outbox=2, effects=2, parked=0, waiting=0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The remaining rows and messages after failures at a failpoint. In the end each event takes effect once.

    Attributes:
        point: The failpoint.
        situation: The situation that reaches the failpoint.
        exception: The rest after one exception at the failpoint; a worker has continued after it.
        cancellation: The rest after the caller or worker was cancelled at the failpoint and has ended.
        sigkill: The rest after the process was killed at the failpoint.
        next: The events after SIGKILL, as a sentence of the documentation.
        on_sqlite: The rest after SIGKILL on SQLite, if it differs.
    """

    point: str
    situation: str
    exception: Left
    cancellation: Left
    sigkill: Left
    next: str
    on_sqlite: Left | None = None

    def left(self, kind: str, database: str) -> Left:
        """Return the rest for a kind of failure and a database."""
        if kind == "sigkill" and database == "sqlite" and self.on_sqlite is not None:
            return self.on_sqlite
        found: Left = getattr(self, kind)
        return found


_AGAIN = "the caller sends the command again"
_UNTOLD = "the relay of any process sends the event; the notification is lost"
_NOT_DELIVERED = "the event is lost: what must not be, goes through the outbox"
_ASKS_AGAIN = "the relay of any process sends it; the caller's time runs out, and nobody knows"
_RELAYED = "the relay of any process sends it"
_DEDUPLICATED = "a relay sends it again, and the broker knows its id"
_REDELIVERED = "the broker delivers it again, as if for the first time"
_CLAIMED = "the event is tried again when its claim ends, after 60 s"
_STARTED = "the event is tried again, alone, when its claim ends, after 60 s"
_KNOWN = "the broker delivers it again, and the inbox knows it"

OUTCOMES = (
    Outcome("unit_of_work.before_stage", "send", NOTHING, NOTHING, NOTHING, _AGAIN),
    Outcome("unit_of_work.before_commit", "send", NOTHING, NOTHING, NOTHING, _AGAIN),
    Outcome("unit_of_work.during_commit", "send", NOTHING, COMMITTED, NOTHING, _AGAIN),
    Outcome("unit_of_work.before_wake", "send", COMMITTED, COMMITTED, COMMITTED, _RELAYED),
    Outcome("unit_of_work.after_answer", "send", COMMITTED, COMMITTED, COMMITTED, _RELAYED),
    Outcome("unit_of_work.after_commit", "send", COMMITTED, COMMITTED, COMMITTED, _RELAYED),
    Outcome("unit_of_work.before_return", "send", COMMITTED, COMMITTED, COMMITTED, _RELAYED),
    Outcome("unit_of_work.before_close", "send", COMMITTED, COMMITTED, COMMITTED, _RELAYED),
    Outcome("after_commit.before_call", "note", COMMITTED, NOTED, COMMITTED, _UNTOLD),
    Outcome("after_commit.after_call", "note", NOTED, NOTED, NOTED, _RELAYED),
    Outcome("unit_of_work.before_delivery", "direct", LOST, DELIVERED, LOST, _NOT_DELIVERED),
    Outcome("unit_of_work.after_delivery", "direct", DELIVERED, DELIVERED, DELIVERED, "nothing is left to do"),
    Outcome("responder.before_reply", "ask", COMMITTED, COMMITTED, COMMITTED, _ASKS_AGAIN),
    Outcome("responder.after_reply", "ask", COMMITTED, COMMITTED, COMMITTED, _RELAYED),
    Outcome("relay.after_select", "relay", SENT, SENT, COMMITTED, _RELAYED),
    Outcome("relay.after_publish", "relay", SENT, SENT, SENT_UNKNOWN, _DEDUPLICATED),
    Outcome("relay.before_delete", "relay", SENT, SENT, SENT_UNKNOWN, _DEDUPLICATED),
    Outcome("relay.after_delete", "relay", SENT, SENT, SENT_UNKNOWN, _DEDUPLICATED, on_sqlite=SENT),
    Outcome("consumer.before_insert", "consume", TAKEN, TAKEN, SENT, _REDELIVERED),
    Outcome("consumer.after_insert", "consume", TAKEN, TAKEN, SENT, _REDELIVERED),
    Outcome("consumer.after_handlers", "consume", TAKEN, TAKEN, SENT, _REDELIVERED),
    Outcome("unit_of_work.before_stage", "consume", TAKEN, TAKEN, SENT, _REDELIVERED),
    Outcome("unit_of_work.before_commit", "consume", TAKEN, TAKEN, SENT, _REDELIVERED),
    Outcome("unit_of_work.during_commit", "consume", TAKEN, TAKEN, SENT, _REDELIVERED),
    Outcome("unit_of_work.after_commit", "consume", TAKEN, TAKEN, TAKEN, _KNOWN),
    Outcome("consumer.after_commit", "consume", TAKEN, TAKEN, TAKEN, _KNOWN),
    Outcome("consumer.after_ack", "consume", TAKEN, TAKEN, TAKEN, "nothing is left to do"),
    Outcome("consumer.after_failure", "retry", TAKEN, COUNTED, COUNTED, "its second start"),
    Outcome("consumer.after_count", "retry", TAKEN, TAKEN, COUNTED, "its third start, alone"),
    Outcome("consumer.after_take_back", "stop", COUNTED, COUNTED, COUNTED, "its first start, again"),
    Outcome("consumer.before_park", "park", PARKED, PARKED, COUNTED, "it is parked without another start"),
    Outcome("consumer.after_park", "park", PARKED, PARKED, PARKED, "the broker delivers it again, and it is parked already"),
    Outcome("consumer.after_term", "park", PARKED, PARKED, PARKED, "it waits to be replayed"),
    Outcome(
        "consumer.after_append", "follow",
        *[Left(orders=2, archive=2, stream=2, inbox=2, parked=2)] * 2,
        Left(orders=2, archive=2, stream=2, inbox=1, parked=1),
        "the broker delivers it again, and it is parked behind the other one",
    ),
    Outcome("later.after_claim", "later", FOLLOWED, RELEASED, FOLLOWED, _CLAIMED),
    Outcome("later.after_count", "later", FOLLOWED, RELEASED, FOLLOWED, _STARTED),
    Outcome("consumer.after_handlers", "later", BOTH_TAKEN, RELEASED, FOLLOWED, _STARTED),
    Outcome("replay.after_take", "later", BOTH_TAKEN, RELEASED, FOLLOWED, _STARTED),
    Outcome("consumer.after_commit", "later", BOTH_TAKEN, RELEASED, RELEASED, "the event behind it is due, and is tried"),
    Outcome("later.after_failure", "later fails", WAITS, WAITS, WAITS, "it waits for its next later try"),
    Outcome("circuit.after_hold", "hold", HELD, HELD, HELD, "a probe or a success of the handler lets it be tried again"),
    Outcome("circuit.before_probe", "probe", FOLLOWED, RELEASED, FOLLOWED, _CLAIMED),
    Outcome("circuit.after_probe", "probe", BOTH_TAKEN, RELEASED, RELEASED, "the event behind it is due, and is tried"),
    Outcome("circuit.after_let_go", "let go", BOTH_TAKEN, RELEASED, RELEASED, "what was let go is due, and is tried"),
    Outcome("replay.after_take", "replay", PARKED, PARKED, PARKED, "it is parked as before"),
    Outcome("consumer.after_handlers", "replay", PARKED, PARKED, PARKED, "it is parked as before"),
    Outcome("consumer.after_commit", "replay", TAKEN, TAKEN, TAKEN, "nothing is left to do"),
)  # fmt: skip
"""All outcomes, in the order of an event's life."""
