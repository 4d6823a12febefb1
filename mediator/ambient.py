"""AmbientFrame: a context for what is dispatched inside, without a scope: `async with mediator.context(...)`."""

from collections.abc import Mapping

from mediator.context import MessageContext
from mediator.headers import Headers
from mediator.scope import Frame, Scope, current_frame, make_current
from mediator.sender import Origin

_NO_SCOPE = Scope()
_NO_SCOPE.closed = True


class AmbientFrame(Frame):
    """Stands in the chain of frames for its context only: scope and transaction are those of the dispatch around it."""

    __slots__ = ()

    def __init__(self, parent: Frame | None, origin: Origin) -> None:
        around = parent.anchor if parent is not None else None
        self.over: bool = False
        self.made_scope: Scope | None = around.scope if around is not None else _NO_SCOPE
        self.parent: Frame | None = parent
        self.origin: Origin = origin
        self.owner: bool = False
        self.message: object = around.message if around is not None else "mediator.context()"
        self.depth: int = parent.depth if parent is not None else 0

    @property
    def anchor(self) -> Frame | None:
        """The dispatch around it, if any."""
        return self.parent.anchor if self.parent is not None else None

    def step_out(self) -> None:
        """End it."""
        if self.scope.tip is self and self.parent is not None:
            self.scope.tip = self.anchor
        super().step_out()


def running_fields() -> dict[str, str | None]:
    """What log lines say of the running message: see `MessageContext.log_fields`. Empty when none runs."""
    frame = current_frame()
    return {} if frame is None else frame.context.log_fields()


def enter_ambient(
    origin: Origin,
    *,
    principal: str | None,
    tenant: str | None,
    headers: Mapping[str, str],
    correlation_id: str | None,
) -> AmbientFrame:
    """Begin a context that differs from the running one in what is given; headers are added to those there are.

    Raises:
        ContextError: A value is too long, or has a character that may not be there.
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
    )
    make_current(frame)
    return frame
