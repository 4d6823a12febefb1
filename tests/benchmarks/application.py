"""Application: the messages and providers of the benchmarks, for the library and for code without it."""

from dataclasses import dataclass
from typing import Any

from dependency_injector import containers, providers

from mediator import CallNext, Command, Notification, NotificationHandler, PipelineBehavior, RequestHandler
from mediator.dependency_injector import MediatorProvider


class Repository:
    """The dependency of the handlers."""


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
    """Return a new behavior class that only calls the rest. Each class has its own code, as in an application."""

    class Behavior(PipelineBehavior[Command[Any], Any]):
        async def handle(self, message: Command[Any], call_next: CallNext[Any]) -> Any:
            return await call_next()

    Behavior.__name__ = f"Behavior{number}"
    return Behavior


def handler_class(number: int) -> type[NotificationHandler[Renamed]]:
    """Return a new handler class that does nothing. Each class has its own code."""

    class Handler(NotificationHandler[Renamed]):
        def __init__(self, repository: Repository) -> None:
            self._repository = repository

        async def handle(self, notification: Renamed) -> None:
            pass

    Handler.__name__ = f"Handler{number}"
    return Handler


def sending(behaviors: int, kind: Any = providers.Factory) -> Any:
    """Return a container with a handler and the given number of behaviors, all from one kind of provider."""
    container: Any = containers.DynamicContainer()
    container.repository = providers.Singleton(Repository)
    names = [f"behavior_{number}" for number in range(behaviors)]
    for number, name in enumerate(names):
        setattr(container, name, kind(behavior_class(number)))
    container.mediator = MediatorProvider(behaviors=providers.List(*(getattr(container, name) for name in names)))
    container.rename = providers.Factory(RenameHandler, container.repository)
    return container


def publishing(handlers: int) -> Any:
    """Return a container with the given number of handlers of a notification."""
    container: Any = containers.DynamicContainer()
    container.repository = providers.Singleton(Repository)
    container.mediator = MediatorProvider(behaviors=providers.List())
    for number in range(handlers):
        setattr(container, f"handler_{number}", providers.Factory(handler_class(number), container.repository))
    return container


def started(container: Any) -> Any:
    """Start the mediator of a container and return it."""
    mediator = container.mediator()
    mediator.started = True
    return mediator
