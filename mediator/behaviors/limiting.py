"""LimitBehavior: what behaviors share that let a message through only when there is room for it."""

from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping
from math import isfinite
from typing import Any, ClassVar, TypeVar

from mediator.context import MessageContext
from mediator.errors import SettingError
from mediator.messages import Request
from mediator.pipeline import CallNext, PipelineBehavior
from mediator.scope import Frame, current_context, current_frame

Message = TypeVar("Message", bound=Request[Any])


class LimitBehavior(PipelineBehavior[Message, Any]):
    """Asks for room, and goes on. What a message dispatches while it is handled goes along with it, and asks for none.

    Otherwise messages that have room could wait for each other without end. Inside a running transaction nobody waits,
    for the database may be locked meanwhile: what does not fit is refused at once.

    Args:
        key: Messages with different keys have limits of their own: `lambda message, context: context.tenant`.
        max_wait: How long a message may wait, in seconds; 0 refuses at once.
    """

    made_once: ClassVar[bool] = True
    belongs_outside: ClassVar[Mapping[str, str]] = {
        "unit of work": "in a transaction nobody may wait, and a refusal should not cost one"
    }

    def __init__(self, key: Callable[[Message, MessageContext], Hashable] | None, max_wait: float) -> None:
        if not (isfinite(max_wait) and max_wait >= 0):
            raise SettingError("max_wait", max_wait, "it is a number of seconds, or 0 to refuse at once.")
        self._key = key
        self._max_wait = max_wait
        self._let_through: set[Frame] = set()

    async def handle(self, message: Message, call_next: CallNext[Any], /) -> Any:
        """Wait for room as long as that is allowed, and go on.

        Raises:
            MediatorError: There is none; which error it is, the behavior says.
        """
        frame = current_frame()
        running = _chain(frame)
        if not self._let_through.isdisjoint(running):
            return await call_next()
        key = None if self._key is None else self._key(message, current_context())
        in_transaction = any(each.scope.transaction is not None for each in running)
        await self._enter(message, key, 0.0 if in_transaction else self._max_wait)
        try:
            self._let_through.update(running[:1])
            return await call_next()
        finally:
            self._let_through.difference_update(running[:1])
            self._leave(key)

    @abstractmethod
    async def _enter(self, message: Message, key: Hashable, max_wait: float, /) -> None:
        """Return when there is room, which is taken then; raise when there is none for so many seconds."""

    def _leave(self, key: Hashable, /) -> None:  # what is used up is not given back
        """What `_enter` let through has ended."""


def _chain(frame: Frame | None) -> list[Frame]:
    """The running dispatches, innermost first."""
    frames: list[Frame] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.parent
    return frames
