"""Caller: the verified sender of an event or request from another application.

A sender could state a false tenant or false headers. So an authenticator verifies the sender and returns a `Caller`.
The unverified statements of the sender are in `MessageContext.unverified`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mediator.context import LONGEST_TEXT, NO_HEADERS, Headers, MessageContext, checked, problem_of
from mediator.distributed.cloudevents import TENANT, CloudEvent
from mediator.errors import NotAuthorizedError, SettingError


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity of a sender, verified by an authenticator.

    Attributes:
        principal: The name of the caller; `None` when only the tenant is known.
        tenant: The tenant whose data the caller may access; `None` when the caller belongs to no tenant.
        headers: Further verified headers for the message context.

    Raises:
        ContextError: A value is too long, or has a character that is not allowed.
    """

    principal: str | None = None
    tenant: str | None = None
    headers: Mapping[str, str] = NO_HEADERS

    def __post_init__(self) -> None:
        if self.principal is not None:
            checked("principal", self.principal)
        if self.tenant is not None:
            checked("tenant", self.tenant)
        if not isinstance(self.headers, Headers):
            object.__setattr__(self, "headers", Headers(self.headers))


EventAuthenticator = Callable[[CloudEvent], Awaitable[Caller | None]]


async def trust_stream(event: CloudEvent, /) -> Caller:
    """Return the tenant that an event states, unverified. This function is an authenticator.

    Use this function only when the broker lets only trusted applications write to the stream. Any other application
    could state a false tenant.
    """
    return stated_by(event)


def stated_by(event: CloudEvent) -> Caller:
    """Return the caller that an event states. A tenant that is not valid in a message context is left out."""
    tenant = event.extensions.get(TENANT)
    return Caller(tenant=None if not tenant or problem_of(tenant) else tenant)


async def vouched(authenticate: Callable[[Any], Awaitable[Caller | None]], sent: Any, what: str) -> Caller | None:
    """Return the caller that an authenticator has verified; `None` when the authenticator has verified nobody.

    Any other result raises a `NotAuthorizedError`. Errors of the authenticator are passed on.
    """
    caller: object = await authenticate(sent)
    if caller is not None and not isinstance(caller, Caller):
        returned = SettingError("authenticate", authenticate, f"return a Caller or None, not a {type(caller).__name__}")
        raise NotAuthorizedError(what, None) from returned
    return caller


def vouched_context(
    context: MessageContext, caller: Caller | None, authenticate: Callable[[Any], Any]
) -> MessageContext:
    """Return the context with the caller's identity and the authenticator's name; unchanged if there is no caller."""
    if caller is None:
        return context
    name = str(getattr(authenticate, "__name__", type(authenticate).__name__))[:LONGEST_TEXT]
    principal, tenant, headers = caller.principal, caller.tenant, caller.headers
    return replace(context, principal=principal, tenant=tenant, headers=headers, vouched_by=name)
