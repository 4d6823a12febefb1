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
    """Decides who may send the messages of one class and its subclasses.

    An authorizer is called if the list of behaviors contains an `AuthorizationBehavior`. For stream requests the list
    needs a `StreamAuthorizationBehavior`. `validate` reports an authorizer whose behavior is missing from the list.

    Authorizers are found by their type argument, as handlers are. A message may have any number of authorizers, and all
    of them must allow the message. Anybody may send a message that has no authorizers. `Authorizer[Request[Any]]`
    decides about every request, `Authorizer[Any]` about every message.
    """

    decides = True

    @abstractmethod
    async def authorize(self, message: Message_contra, context: MessageContext, /) -> bool:
        """Return `True` to allow the message; any other value refuses it.

        `context.principal` is the sender. `context.vouched_by` names the authenticator or application that has verified
        the sender. The context does not contain unverified claims that the sender made about itself. To refuse the
        message with a reason, raise a `NotAuthorizedError`.
        """


class AuthorizationBehavior(CollaboratorBehavior):
    """Refuses a message with a `NotAuthorizedError`, unless each of its `Authorizer`s returns `True`.

    The authorizers are called in the order of declaration. Place this behavior outermost, with only logging outside it,
    so that no other behavior acts on an unauthorized message.
    """

    works_with: ClassVar[tuple[type, ...]] = (Authorizer,)
    role: ClassVar[str | None] = "authorization"

    async def handle_with(self, collaborators: Sequence[Binding], message: Any, call_next: CallNext[Any], /) -> Any:
        await _ask(collaborators, message)
        return await call_next()


class StreamAuthorizationBehavior(StreamCollaboratorBehavior):
    """Refuses a stream request with a `NotAuthorizedError`, unless each of its `Authorizer`s returns `True`.

    The authorizers are called once for each stream, when the first item is requested, and not for each item. Place this
    behavior outermost, with only logging outside it.
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
        # Only `True` allows a message: an authorizer without a `return`, or with a missing `await`, refuses every message.
        if await (await resolve(collaborator)).authorize(message, context) is not True:
            raise NotAuthorizedError(message, context.principal)
