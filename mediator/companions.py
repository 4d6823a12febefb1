"""Companion: what a behavior works with and finds by the type of the message: a validator, an authorizer, a processor.

Companions are found like handlers are, and chosen for a message class once, when its pipeline is compiled. A behavior for
whose companions there is nothing to do is not in the pipeline of that message at all.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, ClassVar, Protocol

from mediator.pipeline import CallNext, PipelineBehavior, Source
from mediator.streams import StreamNext, StreamPipelineBehavior


class Companion(ABC):  # noqa: B024  (its kinds have the abstract methods)
    """The base of each kind of companion. A kind is a generic class right below it; its first argument is the message."""


class BoundCompanion(Protocol):
    """A companion that was found for a message class: a `mediator.Binding`."""

    @property
    def source(self) -> Source:
        """Gives the object, or an awaitable of it."""
        ...

    @property
    def cls(self) -> type:
        """Its class."""
        ...

    @property
    def kind(self) -> type:
        """The kind of companion as which it was found."""
        ...

    def distance(self, message_type: type, /) -> int:
        """How specific it is for a message class: 0 for the class itself, more for its bases."""
        ...


class WorksWithCompanions:
    """What works with companions, and is in the pipelines of the messages that have some: the two behaviors below."""

    works_with: ClassVar[tuple[type, ...]]
    """The kinds of companion that it is given."""

    @classmethod
    def applies_to(cls, _message_type: type, companions: Sequence[BoundCompanion], /) -> bool:
        """Whether there is something to do for a message class; asked once, when its pipeline is compiled."""
        return bool(companions)


class CompanionBehavior(WorksWithCompanions, PipelineBehavior[Any, Any]):
    """A behavior around requests, notifications and events that works with companions."""

    async def handle(self, message: Any, call_next: CallNext[Any], /) -> Any:
        """Handle a message without companions: in a test that runs the behavior alone."""
        return await self.handle_with((), message, call_next)

    @abstractmethod
    async def handle_with(self, companions: Sequence[BoundCompanion], message: Any, call_next: CallNext[Any], /) -> Any:
        """Handle a message with the companions that were found for its class, in the order of declaration."""


class StreamCompanionBehavior(WorksWithCompanions, StreamPipelineBehavior[Any, Any]):
    """A behavior around streams that works with companions."""

    def handle(self, request: Any, call_next: StreamNext[Any], /) -> AsyncIterator[Any]:
        """Handle a request without companions: in a test that runs the behavior alone."""
        return self.handle_with((), request, call_next)

    @abstractmethod
    def handle_with(
        self, companions: Sequence[BoundCompanion], request: Any, call_next: StreamNext[Any], /
    ) -> AsyncIterator[Any]:
        """Yield the items, with the companions that were found for the class of the request. An async generator."""


class _Equipped:
    """A behavior together with the companions for one message class."""

    __slots__ = ("behavior", "companions")

    def __init__(self, behavior: Any, companions: Sequence[BoundCompanion]) -> None:
        self.behavior = behavior
        self.companions = companions

    @property
    def wrapped_handle(self) -> Any:
        return self.behavior.handle_with

    def handle(self, message: Any, call_next: Any, /) -> Any:
        return self.behavior.handle_with(self.companions, message, call_next)


def equipped(source: Source, companions: Sequence[BoundCompanion]) -> Callable[[], Any]:
    """A source of the same behavior with its companions at hand; these are made only when the behavior asks for them."""

    def equip() -> Any:
        behavior = source()
        if hasattr(behavior, "__await__"):
            return _equip_when_resolved(behavior, companions)
        return _Equipped(behavior, companions)

    return equip


async def _equip_when_resolved(resolving: Awaitable[Any], companions: Sequence[BoundCompanion]) -> _Equipped:
    return _Equipped(await resolving, companions)


async def resolve(companion: BoundCompanion) -> Any:
    """The object of a companion, made now, in the running scope."""
    made = companion.source()
    return await made if hasattr(made, "__await__") else made


def kinds_of(cls: type) -> tuple[type, ...]:
    """The kinds of companion that a class is; empty for most classes."""
    return tuple(base for base in cls.__mro__ if Companion in base.__bases__)
