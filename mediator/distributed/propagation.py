"""Propagation: what of a message context travels with an event, and what the receiver believes of it.

Correlation, causation and tenant travel, as extension attributes. A principal does not: that somebody is signed in here
proves nothing elsewhere. Headers do not either: they may hold secrets, and a stream keeps what it is given for days.
"""

from mediator.context import MessageContext, new_id
from mediator.distributed.cloudevents import CAUSATION, CORRELATION, TENANT, CloudEvent
from mediator.headers import problem_of


def outgoing(context: MessageContext) -> dict[str, str]:
    """The extension attributes of an event that was added while a message with this context was handled."""
    extensions = {CORRELATION: context.correlation_id, CAUSATION: context.message_id}
    if context.tenant is not None:
        extensions[TENANT] = context.tenant
    return extensions


def incoming(event: CloudEvent) -> tuple[MessageContext, list[str]]:
    """The context in which an event is handled, and the names of the attributes that were dropped.

    Dropped is what no message context may hold: empty, too long, or with characters that cannot be printed.
    """
    dropped = [name for name in (CORRELATION, CAUSATION, TENANT) if _unfit(event.extensions.get(name, "?"))]
    known = {name: value for name, value in event.extensions.items() if name not in dropped}
    message_id = event.id
    if _unfit(message_id):
        message_id = new_id()
        dropped.insert(0, "id")
    correlation = known.get(CORRELATION, message_id)
    return MessageContext(message_id, correlation, known.get(CAUSATION), None, known.get(TENANT)), dropped


def _unfit(value: str) -> bool:
    return not value or bool(problem_of(value))
