"""Failpoint: a named place where a test can make the process fail.

Failpoints are in the commit path, the relay, the consumer, the replay and the responder. Tests arm a failpoint with an
action through `mediator.testing.failpoints`. In production no failpoint is armed, and `reach` only checks an empty
dictionary.
"""

from collections.abc import Awaitable, Callable

armed: dict[str, Callable[[], Awaitable[None]]] = {}
"""The action of each armed failpoint, by name."""

NAMES = (
    "unit_of_work.before_stage",
    "unit_of_work.before_commit",
    "unit_of_work.during_commit",
    "unit_of_work.before_wake",
    "unit_of_work.after_answer",
    "unit_of_work.after_commit",
    "unit_of_work.before_delivery",
    "unit_of_work.after_delivery",
    "after_commit.before_call",
    "after_commit.after_call",
    "unit_of_work.before_return",
    "unit_of_work.before_close",
    "responder.before_reply",
    "responder.after_reply",
    "relay.after_select",
    "relay.after_publish",
    "relay.before_delete",
    "relay.after_delete",
    "consumer.after_count",
    "consumer.before_insert",
    "consumer.after_insert",
    "consumer.after_handlers",
    "consumer.after_commit",
    "consumer.after_ack",
    "consumer.after_append",
    "consumer.before_park",
    "consumer.after_park",
    "consumer.after_term",
    "consumer.after_failure",
    "consumer.after_take_back",
    "replay.after_take",
    "later.after_claim",
    "later.after_count",
    "later.after_failure",
    "circuit.after_hold",
    "circuit.before_probe",
    "circuit.after_probe",
    "circuit.after_let_go",
)
"""The names of all failpoints."""


async def reach(name: str) -> None:
    """Run the action that is armed at a failpoint, if there is one."""
    if armed and (action := armed.get(name)):
        await action()
