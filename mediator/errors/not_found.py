"""Errors for a name, an id or a number that does not exist. Each function returns the error to raise."""

from collections.abc import Sequence
from dataclasses import dataclass

from mediator.errors.root import MediatorError
from mediator.printable import shown


@dataclass(eq=False, repr=False)
class NotFoundError(MediatorError, LookupError):
    """A provider, a consumer group, an event or a failpoint does not exist.

    Attributes:
        name: The name, id or number that was looked up.
        problem: What does not exist, and what to do.
    """

    name: str
    problem: str

    def __str__(self) -> str:
        return self.problem


class ParkedEventNotFoundError(NotFoundError):
    """An event is not parked, or is no longer parked because it was replayed or discarded."""


def no_provider(name: str, nearest: Sequence[str] = ()) -> NotFoundError:
    """The container has no provider with the given name. The most similar name is suggested."""
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return NotFoundError(name, f"The container has no provider {name!r}.{hint}")


def no_consumer_group(group: str, known: Sequence[str] = ()) -> NotFoundError:
    """A parked event cannot be replayed here, because this application has no consumer in the group that parked it."""
    there = f"The container has the groups {', '.join(known)}." if known else "The container has no groups."
    return NotFoundError(
        group,
        f"The event was parked by the group {shown(repr(group))}, and no consumer of this container has this group. "
        f"{there} Replay the event with the container of the application that handles it.",
    )


def no_event_in_outbox(event_id: str) -> NotFoundError:
    """Neither the outbox nor its archive has an event with the given id."""
    return NotFoundError(
        event_id,
        f"The outbox and its archive have no event with the id {shown(repr(event_id))}. The event was never "
        "committed, is too old for the archive, or is parked: see `mediator parked list`.",
    )


def not_parked(number: int) -> ParkedEventNotFoundError:
    """No event is parked under the given number."""
    return ParkedEventNotFoundError(
        str(number), f"No event is parked under the number {number}: it was replayed, discarded or never parked."
    )


def no_failpoint(name: str, known: Sequence[str]) -> NotFoundError:
    """No failpoint has the given name, which a test uses."""
    return NotFoundError(name, f"There is no failpoint {name!r}. The failpoints are: {', '.join(known)}.")
