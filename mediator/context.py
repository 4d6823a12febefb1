"""MessageContext: what a dispatch knows of where its message came from."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

IdFactory = Callable[[], str]


def new_id() -> str:
    """A random identifier: UUID version 4 (RFC 9562) as text."""
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class MessageContext:
    """The identity of a running message and of the flow it belongs to.

    Attributes:
        message_id: Identifies this dispatch; for an event from another application, the event's id.
        correlation_id: The same for everything that follows from one entry into the system, across processes.
        causation_id: The `message_id` of what caused this message; `None` where the flow began.
        principal: Who it is done for, as the entry point has established it.
        tenant: Whose data it is about.
    """

    message_id: str
    correlation_id: str
    causation_id: str | None = None
    principal: str | None = None
    tenant: str | None = None

    def caused(self, message_id: str) -> "MessageContext":
        """The context of a message that follows from this one."""
        return replace(self, message_id=message_id, causation_id=self.message_id)
