"""AmbientFrame: a message context without a scope, for the dispatches inside `async with mediator.context(...)`."""

from collections.abc import Mapping

from mediator.context import THIS_APPLICATION, Headers, MessageContext
from mediator.messages import Origin
from mediator.scope import Frame, Scope, current_frame, make_current
from mediator.transactions import TransactionEnd

_NO_SCOPE = Scope()
_NO_SCOPE.closed = True


class AmbientFrame(Frame):
    """A frame that only carries a context. The scope and the transaction belong to the dispatch around the frame."""

    __slots__ = ()

    def __init__(self, parent: Frame | None, origin: Origin) -> None:
        around = parent.dispatch if parent is not None else None
        self.over: bool = False
        self.ending: TransactionEnd | None = None
        self.made_scope: Scope | None = around.scope if around is not None else _NO_SCOPE
        self.parent: Frame | None = parent
        self.origin: Origin = origin
        self.owner: bool = False
        self.message: object = around.message if around is not None else "mediator.context()"
        self.depth: int = parent.depth if parent is not None else 0

    @property
    def dispatch(self) -> Frame | None:
        """The dispatch around this frame, if any."""
        return self.parent.dispatch if self.parent is not None else None

    def step_out(self) -> None:
        """End the context, and make the parent of this frame the current frame."""
        if self.parent is not None:
            self.scope.hand_back(self, self.dispatch)
        super().step_out()
        self.forget()


def running_fields() -> dict[str, str | None]:
    """Return the `MessageContext.log_fields` of the running message; empty when no message is running."""
    frame = current_frame()
    return {} if frame is None else frame.context.log_fields()


def enter_ambient(
    origin: Origin, *, principal: str | None, tenant: str | None, headers: Mapping[str, str], correlation_id: str | None
) -> AmbientFrame:
    """Begin a context with the given values. All other values are inherited from the running context.

    The given headers are added to the inherited headers. If a principal or a tenant is given, `vouched_by` becomes
    `THIS_APPLICATION`. If a value is too long or has a character that is not allowed, a `ContextError` is raised.
    """
    outer = current_frame()
    frame = AmbientFrame(outer, origin)
    message_id = origin.ids()
    flow = MessageContext(message_id, message_id) if outer is None else outer.context.caused(message_id)
    frame.made_context = MessageContext(
        message_id,
        flow.correlation_id if correlation_id is None else correlation_id,
        flow.causation_id,
        flow.principal if principal is None else principal,
        flow.tenant if tenant is None else tenant,
        Headers({**flow.headers, **Headers(headers)}) if headers else flow.headers,
        flow.vouched_by if principal is None and tenant is None else THIS_APPLICATION,
        flow.unverified,
    )
    make_current(frame)
    return frame
