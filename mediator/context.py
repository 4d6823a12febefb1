"""MessageContext: the ids, principal, tenant and headers of a message, and the limits of their sizes."""

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import final

from mediator.errors import ContextError

LONGEST_TEXT = 255
"""The largest number of characters in an id, a principal or a tenant."""
LONGEST_VALUE = 1024
"""The largest number of characters in the value of a header."""
LARGEST_HEADERS = 4096
"""The largest number of characters in the names and values of all headers together."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def problem_of(value: object, longest: int = LONGEST_TEXT) -> str:
    """Return why a value is not allowed in a context; an empty text if it is allowed.

    All characters must be accepted by `str.isprintable`. Control characters and line ends are refused, because they
    could forge log lines. Lone surrogates are refused, because they cannot be encoded.
    """
    if not isinstance(value, str):
        return f"is of type {type(value).__name__}, not a text"
    if len(value) > longest:
        return f"has {len(value):,} characters, more than {longest:,}"
    return "" if value.isprintable() else "has a character that cannot be printed, such as a line end"


def checked(field: str, value: str) -> str:
    """Return an id, principal or tenant; raise a `ContextError` if the text is empty or `problem_of` finds a problem."""
    if value.__class__ is str and 0 < len(value) <= LONGEST_TEXT and value.isprintable():
        return value
    problem = problem_of(value) or ("" if value else "is empty; leave it out instead")
    if problem:
        raise ContextError(field, problem)
    return value


class Headers(Mapping[str, str]):
    """The headers of a message: texts by case-insensitive names. The `repr` does not show the texts.

    Args:
        values: Names of up to 64 letters, digits, `.`, `_` and `-`; values of up to 1,024 printable characters; 4,096
            characters in all.

    Raises:
        ContextError: A name, a value or the total is too long, a character is not allowed, or two names differ only in
            case.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._values: dict[str, str] = {}
        for name, value in (values or {}).items():
            self._values[_checked_name(name)] = _checked_value(name, value)
        if len(self._values) != len(values or {}):
            raise ContextError("headers", "have two names that differ only in case")
        size = sum(len(name) + len(value) for name, value in self._values.items())
        if size > LARGEST_HEADERS:
            raise ContextError("headers", f"have {size:,} characters in all, more than {LARGEST_HEADERS:,}")

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"Headers({', '.join(f'{name}=***' for name in self._values)})"


def _checked_name(name: object) -> str:
    lowered = name.lower() if isinstance(name, str) else ""
    if not _NAME.fullmatch(lowered):
        raise ContextError("headers", "have a name that is not 1 to 64 letters, digits, dots, hyphens and underscores")
    return lowered


def _checked_value(name: str, value: object) -> str:
    problem = problem_of(value, LONGEST_VALUE)
    if problem or not isinstance(value, str):
        raise ContextError(f"headers[{name!r}]", problem)
    return value


NO_HEADERS = Headers()


IdFactory = Callable[[], str]

THIS_APPLICATION = "this application"
"""The value of `vouched_by` when code of this application, such as an entry point, has verified the values."""


def new_id() -> str:
    """Return a random identifier: UUID version 4 (RFC 9562) as text."""
    return str(uuid.uuid4())


@final
@dataclass(frozen=True, slots=True)
class Unverified:
    """Claims that the sender of a message made about itself.

    Nobody has verified the claims. They may be logged, but no decision may be based on them.

    Attributes:
        tenant: The tenant whose data the message is about, according to the sender.
        headers: Other claims; the sender's credentials may be among them.

    Raises:
        ContextError: A value is too long, or has a character that is not allowed.
    """

    tenant: str | None = None
    headers: Mapping[str, str] = NO_HEADERS

    def __post_init__(self) -> None:
        if self.tenant is not None:
            checked("tenant", self.tenant)
        if not isinstance(self.headers, Headers):
            object.__setattr__(self, "headers", Headers(self.headers))


NOTHING_SAID = Unverified()


@final
@dataclass(frozen=True, slots=True)
class MessageContext:
    """The identity of a running message and of the flow it belongs to.

    A message that is dispatched while this message runs inherits this context, but has a `message_id` of its own.
    Ids, principal and tenant have 1 to 255 printable characters; `Headers` documents the limits of headers.

    Principal, tenant and headers have been verified by the entry point in this application, or by the `authenticate` of
    a responder or a consumer. Claims that a caller made about itself are in `unverified`; base no decision on them.

    Attributes:
        message_id: Identifies this dispatch. For a delivered event, `message_id` is the id of the event.
        correlation_id: The same for all messages that one external call causes, across processes.
        causation_id: The `message_id` of the message that caused this message; `None` for the first message of
            a flow.
        principal: The user or service on whose behalf the message is handled, as established by the entry point. The
            principal does not leave the process.
        tenant: The tenant whose data the message is about. Distributed events carry the tenant.
        headers: Other facts about the message. They do not leave the process. A log line shows only the headers that
            `log_headers` of a `LoggingBehavior` names.
        vouched_by: Who verified principal, tenant and headers: `"this application"`, or the name of an authenticator.
            `None` when nobody verified them. Such a message came from outside this application, and has no principal,
            tenant or headers.
        unverified: Claims that a sender outside this application made about itself. They do not leave the process.

    Raises:
        ContextError: A value is too long, or has a character that is not allowed.
    """

    message_id: str
    correlation_id: str
    causation_id: str | None = None
    principal: str | None = None
    tenant: str | None = None
    headers: Mapping[str, str] = NO_HEADERS
    vouched_by: str | None = THIS_APPLICATION
    unverified: Unverified = NOTHING_SAID

    def __post_init__(self) -> None:
        checked("message_id", self.message_id)
        checked("correlation_id", self.correlation_id)
        if self.causation_id is not None:
            checked("causation_id", self.causation_id)
        if self.principal is not None:
            checked("principal", self.principal)
        if self.tenant is not None:
            checked("tenant", self.tenant)
        if self.vouched_by is not None:
            checked("vouched_by", self.vouched_by)
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
        """Return the context of a message that no other message causes, such as the command of a web request.

        Args:
            principal: The user or service on whose behalf the message is handled.
            tenant: The tenant whose data the message is about.
            headers: Other facts about the message.
            correlation_id: The id of the flow to which the message belongs; when not given, a new flow begins.
            ids: Creates the message id.

        Raises:
            ContextError: A value is too long, or has a character that is not allowed.
        """
        message_id = ids()
        flow = message_id if correlation_id is None else correlation_id
        return cls(message_id, flow, None, principal, tenant, headers)

    def caused(self, message_id: str) -> "MessageContext":
        """Return the context of a message that this message causes."""
        context = object.__new__(MessageContext)  # no `__post_init__`: the inherited values are already checked
        put = object.__setattr__
        put(context, "message_id", message_id)
        put(context, "correlation_id", self.correlation_id)
        put(context, "causation_id", self.message_id)
        put(context, "principal", self.principal)
        put(context, "tenant", self.tenant)
        put(context, "headers", self.headers)
        put(context, "vouched_by", self.vouched_by)
        put(context, "unverified", self.unverified)
        return context

    def verified(self) -> "MessageContext":
        """Return this context without `unverified`, for code that decides about the message, such as authorizers."""
        return self if self.unverified is NOTHING_SAID else replace(self, unverified=NOTHING_SAID)

    def log_fields(self) -> dict[str, str | None]:
        """Return the fields for log lines: the ids, and principal and tenant if there are any; never the headers."""
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
