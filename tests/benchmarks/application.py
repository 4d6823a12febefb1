"""Application: what is dispatched in the benchmarks, through the library and by hand, from the same providers."""

from dataclasses import dataclass
from typing import Any

from dependency_injector import containers, providers

from mediator import CallNext, Command, Notification, NotificationHandler, PipelineBehavior, RequestHandler
from mediator.dependency_injector import MediatorProvider


class Repository:
    """What handlers depend on."""


@dataclass(frozen=True, slots=True)
class Rename(Command[None]):
    name: str


@dataclass(frozen=True, slots=True)
class Renamed(Notification):
    name: str


class RenameHandler(RequestHandler[Rename, None]):
    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def handle(self, command: Rename) -> None:
        pass


def behavior_class(number: int) -> type[PipelineBehavior[Any, Any]]:
    """A behavior that does nothing. Each has code of its own, as behaviors of an application have."""

    class Behavior(PipelineBehavior[Command[Any], Any]):
        async def handle(self, message: Command[Any], call_next: CallNext[Any]) -> Any:
            return await call_next()

    Behavior.__name__ = f"Behavior{number}"
    return Behavior


def handler_class(number: int) -> type[NotificationHandler[Renamed]]:
    """A handler that does nothing, with code of its own."""

    class Handler(NotificationHandler[Renamed]):
        def __init__(self, repository: Repository) -> None:
            self._repository = repository

        async def handle(self, notification: Renamed) -> None:
            pass

    Handler.__name__ = f"Handler{number}"
    return Handler


def sending(behaviors: int, kind: Any = providers.Factory) -> Any:
    """A container with a handler and so many behaviors, whose providers are of one kind."""
    container: Any = containers.DynamicContainer()
    container.repository = providers.Singleton(Repository)
    names = [f"behavior_{number}" for number in range(behaviors)]
    for number, name in enumerate(names):
        setattr(container, name, kind(behavior_class(number)))
    container.mediator = MediatorProvider(behaviors=providers.List(*(getattr(container, name) for name in names)))
    container.rename = providers.Factory(RenameHandler, container.repository)
    return container


def publishing(handlers: int) -> Any:
    """A container with so many handlers of a notification."""
    container: Any = containers.DynamicContainer()
    container.repository = providers.Singleton(Repository)
    container.mediator = MediatorProvider(behaviors=providers.List())
    for number in range(handlers):
        setattr(container, f"handler_{number}", providers.Factory(handler_class(number), container.repository))
    return container


def started(container: Any) -> Any:
    """Its mediator, started."""
    mediator = container.mediator()
    mediator.started = True
    return mediator
