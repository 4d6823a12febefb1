"""AuthorizationBehavior: lets a message or a stream through only if all of its authorizers allow it."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, Generic

from mediator.binding import Binding
from mediator.collaborators import Collaborator, CollaboratorBehavior, StreamCollaboratorBehavior, resolve
from mediator.context import MessageContext
from mediator.errors import NotAuthorizedError
from mediator.pipeline import CallNext, Message_contra
from mediator.scope import current_context
from mediator.streams import StreamNext


class Authorizer(Collaborator, Generic[Message_contra]):
    """Decides who may send one kind of message and its subclasses.

    It is asked if the list of behaviors has an `AuthorizationBehavior`. A message may have any number of authorizers,
    which are found by their type as handlers are; each of them must allow the message. A message without authorizers is
    open to all. `Authorizer[Request[Any]]` is asked about every request, `Authorizer[Any]` about every message. For
    streams the list needs a `StreamAuthorizationBehavior`; `validate` reports a list that lacks the behavior that an
    authorizer needs.
    """

    decides = True

    @abstractmethod
    async def authorize(self, message: Message_contra, context: MessageContext, /) -> bool:
        """Return `True` to allow the message; any other value refuses it.

        `context.principal` is the sender, and `context.vouched_by` says who vouches for that. Claims that a caller from
        another application made about itself, without anybody vouching for them, are not in the context. To refuse with
        a reason, raise a `NotAuthorizedError`.
        """


class AuthorizationBehavior(CollaboratorBehavior):
    """Refuses a message with a `NotAuthorizedError`, unless each of its `Authorizer`s returns `True`.

    They are asked in the order of declaration. Place it outermost, with only logging outside, so that nothing is done,
    looked up or disclosed before.
    """

    works_with: ClassVar[tuple[type, ...]] = (Authorizer,)
    role: ClassVar[str | None] = "authorization"

    async def handle_with(self, collaborators: Sequence[Binding], message: Any, call_next: CallNext[Any], /) -> Any:
        await _ask(collaborators, message)
        return await call_next()


class StreamAuthorizationBehavior(StreamCollaboratorBehavior):
    """Refuses a stream, at its first step, with a `NotAuthorizedError`, unless each `Authorizer` of its request allows it.

    Place it outermost, with only logging outside. The authorizers are asked once for each stream, not for each item.
    """

    works_with: ClassVar[tuple[type, ...]] = (Authorizer,)
    role: ClassVar[str | None] = "authorization"

    async def handle_with(
        self, collaborators: Sequence[Binding], request: Any, call_next: StreamNext[Any], /
    ) -> AsyncIterator[Any]:
        await _ask(collaborators, request)
        async for item in call_next():
            yield item


async def _ask(collaborators: Sequence[Binding], message: Any) -> None:
    context = current_context().verified()
    for collaborator in collaborators:
        # Only `True` itself counts, so an authorizer that forgets to return or to await something refuses everybody.
        if await (await resolve(collaborator)).authorize(message, context) is not True:
            raise NotAuthorizedError(message, context.principal)
