"""AuthorizationBehavior: lets a message or a stream through only if everybody who has a say in it agrees."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, Generic

from mediator.companions import BoundCompanion, Companion, CompanionBehavior, StreamCompanionBehavior, resolve
from mediator.context import MessageContext
from mediator.errors import NotAuthorizedError
from mediator.pipeline import CallNext, Message_contra
from mediator.scope import current_context
from mediator.streams import StreamNext


class Authorizer(Companion, Generic[Message_contra]):
    """Decides who may send one kind of message, and those derived from it, where the list has an `AuthorizationBehavior`.

    A message may have any number of authorizers, found by their type as handlers are; each of them must let it through.
    A message that has none is open to all. `Authorizer[Request[Any]]` has a say in every request, `Authorizer[Any]` in
    everything. About streams it is asked where the list has a `StreamAuthorizationBehavior`; `validate` finds a list that
    lacks the one it needs.
    """

    @abstractmethod
    async def authorize(self, message: Message_contra, context: MessageContext, /) -> bool:
        """Return `True` to let it through; `context.principal` is who sent it.

        Anything else refuses it. To say why, raise a `NotAuthorizedError` with a reason.
        """


class AuthorizationBehavior(CompanionBehavior):
    """Refuses a message unless each of its `Authorizer`s lets it through, which is asked in the order of declaration.

    Place it outermost but for logging, so that nothing is done, looked up or told before.
    """

    works_with: ClassVar[tuple[type, ...]] = (Authorizer,)
    role: ClassVar[str | None] = "authorization"

    async def handle_with(self, companions: Sequence[BoundCompanion], message: Any, call_next: CallNext[Any], /) -> Any:
        """Ask, and go on.

        Raises:
            NotAuthorizedError: An authorizer returned something else than `True`.
        """
        await _ask(companions, message)
        return await call_next()


class StreamAuthorizationBehavior(StreamCompanionBehavior):
    """Refuses a stream, at its first step, unless each `Authorizer` of its request lets it through.

    Place it outermost but for logging. The stream is asked about once, not for each item.
    """

    works_with: ClassVar[tuple[type, ...]] = (Authorizer,)
    role: ClassVar[str | None] = "authorization"

    async def handle_with(
        self, companions: Sequence[BoundCompanion], request: Any, call_next: StreamNext[Any], /
    ) -> AsyncIterator[Any]:
        """Ask, and pass the items on.

        Raises:
            NotAuthorizedError: An authorizer returned something else than `True`.
        """
        await _ask(companions, request)
        async for item in call_next():
            yield item


async def _ask(companions: Sequence[BoundCompanion], message: Any) -> None:
    context = current_context()
    for companion in companions:
        # An authorizer that forgot to return or to await something lets nobody through.
        if await (await resolve(companion)).authorize(message, context) is not True:
            raise NotAuthorizedError(message, context.principal)
