"""Failpoint: a named place in the commit path, the relay or the consumer where a test can make the process fail.

Nothing is armed in production, where reaching one costs a look at an empty mapping. Tests arm them through
`mediator.testing.failpoints`.
"""

from collections.abc import Awaitable, Callable

armed: dict[str, Callable[[], Awaitable[None]]] = {}
"""What happens at which failpoint."""

NAMES = (
    "unit_of_work.before_stage",
    "unit_of_work.before_commit",
    "unit_of_work.during_commit",
    "unit_of_work.after_commit",
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
)
"""Every failpoint there is."""


async def reach(name: str) -> None:
    """Do what is armed at a failpoint, if anything is."""
    if armed and (action := armed.get(name)):
        await action()
