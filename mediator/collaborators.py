"""Collaborator: a validator, authorizer or processor, which a behavior finds by the type of the message.

Like handlers, collaborators say by a type argument which messages they are for. The collaborators for a message class
are chosen once, when the pipeline of that class is compiled. A behavior that has nothing to do for a message class is
left out of the pipeline of that class.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mediator.binding import Binding
from mediator.pipeline import CallNext, PipelineBehavior, Source
from mediator.streams import StreamNext, StreamPipelineBehavior


class Collaborator(ABC):  # noqa: B024  (its subclasses have the abstract methods)
    """The base of every kind of collaborator.

    A kind, such as `Validator`, is a generic class that derives directly from `Collaborator`. The first type argument
    of a kind is the message class.
    """

    decides: ClassVar[bool] = False
    """True if a collaborator of this kind may refuse a message, and must therefore never be skipped by mistake.

    If True, the registry raises an error when it cannot determine whether the collaborator is for a message class.
    """


class WorksWithCollaborators:
    """A base for behaviors that work with collaborators, and apply only to messages that have collaborators."""

    works_with: ClassVar[tuple[type, ...]]
    """The kinds of collaborator that the behavior works with."""

    @classmethod
    def applies_to(cls, _message_type: type, collaborators: Sequence[Binding], /) -> bool:
        """Return whether the behavior has something to do for a message class.

        This method is called once for each message class, when the pipeline of that class is compiled.
        """
        return bool(collaborators)


class CollaboratorBehavior(WorksWithCollaborators, PipelineBehavior[Any, Any]):
    """A behavior around requests, notifications and events that works with collaborators."""

    async def handle(self, message: Any, call_next: CallNext[Any], /) -> Any:
        """Handle a message without collaborators, as in a test of the behavior alone."""
        return await self.handle_with((), message, call_next)

    @abstractmethod
    async def handle_with(self, collaborators: Sequence[Binding], message: Any, call_next: CallNext[Any], /) -> Any:
        """Handle a message with the collaborators found for its class, in the order of declaration."""


class StreamCollaboratorBehavior(WorksWithCollaborators, StreamPipelineBehavior[Any, Any]):
    """A behavior around streams that works with collaborators."""

    def handle(self, request: Any, call_next: StreamNext[Any], /) -> AsyncIterator[Any]:
        """Handle a request without collaborators, as in a test of the behavior alone."""
        return self.handle_with((), request, call_next)

    @abstractmethod
    def handle_with(
        self, collaborators: Sequence[Binding], request: Any, call_next: StreamNext[Any], /
    ) -> AsyncIterator[Any]:
        """Yield the items, with the collaborators for the class of the request. This method must be an async generator."""


@dataclass(slots=True)
class _Equipped:
    """A behavior together with the collaborators for one message class."""

    behavior: Any
    collaborators: Sequence[Binding]

    @property
    def wrapped_handle(self) -> Any:
        return self.behavior.handle_with

    def handle(self, message: Any, call_next: Any, /) -> Any:
        return self.behavior.handle_with(self.collaborators, message, call_next)


def equipped(source: Source, collaborators: Sequence[Binding]) -> Callable[[], Any]:
    """Return a function that creates the behavior together with its collaborators.

    The objects of the collaborators are created only when the behavior resolves them.
    """

    def equip() -> Any:
        behavior = source()
        if hasattr(behavior, "__await__"):
            return _equip_when_resolved(behavior, collaborators)
        return _Equipped(behavior, collaborators)

    return equip


async def _equip_when_resolved(resolving: Awaitable[Any], collaborators: Sequence[Binding]) -> _Equipped:
    return _Equipped(await resolving, collaborators)


async def resolve(collaborator: Binding) -> Any:
    """Make the object of a collaborator in the running scope and return it."""
    made = collaborator.source()
    return await made if hasattr(made, "__await__") else made


def kinds_of(cls: type) -> tuple[type, ...]:
    """Return the kinds of collaborator that a class derives from; empty for most classes."""
    return tuple(base for base in cls.__mro__ if Collaborator in base.__bases__)
