"""MessageContext: what a dispatch knows of where its message came from, and for whom it is done."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from mediator.headers import NO_HEADERS, Headers, checked

IdFactory = Callable[[], str]


def new_id() -> str:
    """A random identifier: UUID version 4 (RFC 9562) as text."""
    return str(uuid.uuid4())


@final
@dataclass(frozen=True, slots=True)
class MessageContext:
    """The identity of a running message and of the flow it belongs to.

    What is dispatched while it runs inherits all of it, under a `message_id` of its own. Ids, principal and tenant have
    1 to 255 printable characters; what headers may be, `Headers` says.

    Attributes:
        message_id: Identifies this dispatch; for an event from another application, the event's id.
        correlation_id: The same for everything that follows from one entry into the system, across processes.
        causation_id: The `message_id` of what caused this message; `None` where the flow began.
        principal: Who it is done for, as the entry point has established it. It does not leave the process.
        tenant: Whose data it is about. It travels with distributed events.
        headers: Whatever else the entry point knows. They do not leave the process, and no log line shows their values
            unless it is told to.

    Raises:
        ContextError: A value is too long, or has a character that may not be there.
    """

    message_id: str
    correlation_id: str
    causation_id: str | None = None
    principal: str | None = None
    tenant: str | None = None
    headers: Mapping[str, str] = NO_HEADERS

    def __post_init__(self) -> None:
        checked("message_id", self.message_id)
        checked("correlation_id", self.correlation_id)
        if self.causation_id is not None:
            checked("causation_id", self.causation_id)
        if self.principal is not None:
            checked("principal", self.principal)
        if self.tenant is not None:
            checked("tenant", self.tenant)
        if not isinstance(self.headers, Headers):
            object.__setattr__(self, "headers", Headers(self.headers))

    @classmethod
    def new(
        cls,
        *,
        principal: str | None = None,
        tenant: str | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        correlation_id: str | None = None,
        ids: IdFactory = new_id,
    ) -> "MessageContext":
        """The context of what begins here, such as a web request.

        Args:
            principal: Who it is done for.
            tenant: Whose data it is about.
            headers: Whatever else is known.
            correlation_id: Of the flow it belongs to; a flow of its own when not given.
            ids: Makes its id.

        Raises:
            ContextError: A value is too long, or has a character that may not be there.
        """
        message_id = ids()
        flow = message_id if correlation_id is None else correlation_id
        return cls(message_id, flow, None, principal, tenant, headers)

    def caused(self, message_id: str) -> "MessageContext":
        """The context of a message that follows from this one."""
        context = object.__new__(MessageContext)  # what is inherited has been checked
        put = object.__setattr__
        put(context, "message_id", message_id)
        put(context, "correlation_id", self.correlation_id)
        put(context, "causation_id", self.message_id)
        put(context, "principal", self.principal)
        put(context, "tenant", self.tenant)
        put(context, "headers", self.headers)
        return context

    def log_fields(self) -> dict[str, str | None]:
        """What log lines say of it: the ids, and principal and tenant where there are any; never the headers."""
        fields = {
            "message_id": self.message_id,
            "correlation_id": self.correlation_id,
            "causation_id": self.causation_id,
        }
        if self.principal is not None:
            fields["principal"] = self.principal
        if self.tenant is not None:
            fields["tenant"] = self.tenant
        return fields
