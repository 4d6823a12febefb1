"""Caller: the verified identity for which an event or request of another application is handled.

A sender states its tenant and adds any headers it likes. None of that is believed: an authenticator returns the caller
that it vouches for, and everything else is unverified in the message context.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mediator.context import LONGEST_TEXT, NO_HEADERS, Headers, MessageContext, checked, problem_of
from mediator.distributed.cloudevents import TENANT, CloudEvent
from mediator.errors import NotAuthorizedError, SettingError


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity that an authenticator vouches for.

    Attributes:
        principal: The name of the caller; `None` when only the tenant is known.
        tenant: The tenant whose data the caller may reach; `None` when it belongs to no tenant.
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
    """Trust the tenant that each event states. The permissions of the broker decide who can store events.

    This is an authenticator. Whoever may write to the subjects of a stream decides about everything in its events,
    including the tenant.
    """
    return stated_by(event)


def stated_by(event: CloudEvent) -> Caller:
    """Return the caller that an event states. A tenant that no message context can hold is left out."""
    tenant = event.extensions.get(TENANT)
    return Caller(tenant=None if not tenant or problem_of(tenant) else tenant)


async def vouched(authenticate: Callable[[Any], Awaitable[Caller | None]], sent: Any, what: str) -> Caller | None:
    """Return the caller that an authenticator vouches for; `None` when it vouches for nobody.

    Raises:
        NotAuthorizedError: The authenticator returned neither a `Caller` nor `None`.
        Exception: The authenticator raised it.
    """
    caller: object = await authenticate(sent)
    if caller is not None and not isinstance(caller, Caller):
        returned = SettingError("authenticate", authenticate, f"let it return a Caller, not a {type(caller).__name__}")
        raise NotAuthorizedError(what, None) from returned
    return caller


def vouched_context(
    context: MessageContext, caller: Caller | None, authenticate: Callable[[Any], Any]
) -> MessageContext:
    """Return the context with the caller's identity and the authenticator's name; unchanged without a caller."""
    if caller is None:
        return context
    name = str(getattr(authenticate, "__name__", type(authenticate).__name__))[:LONGEST_TEXT]
    principal, tenant, headers = caller.principal, caller.tenant, caller.headers
    return replace(context, principal=principal, tenant=tenant, headers=headers, vouched_by=name)
