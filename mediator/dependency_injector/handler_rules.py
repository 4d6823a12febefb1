"""Rules for handlers: each request has exactly one, it is async, and returns what the request promises."""

import difflib
import inspect
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from mediator.binding import Binding
from mediator.dependency_injector.catalog import Catalog
from mediator.distributed.events import DistributedEvent
from mediator.distributed.handler import DistributedEventHandler
from mediator.errors import HandlerNotFoundError, MessageDeclarationError, Problem, SettingError
from mediator.handlers import (
    NotificationHandler,
    RequestHandler,
    StreamRequestHandler,
    fits,
    spelled,
    type_arguments,
)
from mediator.messages import Notification, Request, StreamRequest
from mediator.strategies import check_strategy
from mediator.streams import StreamPipelineBehavior

_KINDS: dict[type, type] = {
    RequestHandler: Request,
    StreamRequestHandler: StreamRequest,
    NotificationHandler: Notification,
    DistributedEventHandler: DistributedEvent,
}


_ONE_HANDLER: dict[type, type] = {RequestHandler: Request, StreamRequestHandler: StreamRequest}


def find_handler_faults(catalog: Catalog) -> Iterator[Problem]:
    """What is wrong with the handlers and behaviors of one mediator."""
    for binding in (*catalog.handlers, *catalog.behaviors):
        yield from _not_async(binding)
    for binding in catalog.handlers:
        yield from _wrong_kind(binding)
    for binding in catalog.bindings:
        yield from _of_several_kinds(binding)
        yield from _wrong_strategy(binding)
    requests = [binding for binding in catalog.handlers if binding.kind in _ONE_HANDLER]
    for binding in requests:
        yield from _wrong_result(binding)
    yield from _ambiguous(requests)


def find_unhandled(
    catalogs: Iterable[Catalog], requests: Iterable[type], packages: Iterable[str], where: str
) -> Iterator[Problem]:
    """Requests that no handler of any mediator handles; no provider is at fault, so they are reported at `where`."""
    handlers = [binding for catalog in catalogs for binding in catalog.handlers if binding.kind in _ONE_HANDLER]
    names = [message.__name__ for binding in handlers for message in binding.messages]
    declared = [request for base in _ONE_HANDLER.values() for request in declared_classes(base, packages)]
    for request in dict.fromkeys([*requests, *declared]):
        if not any(binding.takes(request) for binding in handlers):
            nearest = difflib.get_close_matches(request.__name__, names, n=2)
            path = f"{request.__module__}.{request.__qualname__}"
            yield Problem(where, path, str(HandlerNotFoundError(request, nearest)))


def declared_classes(base: type, packages: Iterable[str]) -> list[type]:
    """The classes derived from `base`, and not derived from again, at the top level of the modules of some packages.

    What a module no longer holds under its name does not count: `@dataclass(slots=True)` makes a second class of the same
    name and leaves the first behind among the subclasses.
    """
    prefixes = tuple(f"{package}." for package in packages)
    found: dict[type, None] = {}
    waiting: list[type] = list(base.__subclasses__())
    for cls in waiting:  # grows while it is walked
        derived: list[type] = cls.__subclasses__()
        waiting += derived
        if not derived and f"{cls.__module__}.".startswith(prefixes) and _is_current(cls):
            found[cls] = None
    return sorted(found, key=lambda cls: (cls.__module__, cls.__qualname__))


def _is_current(cls: type) -> bool:
    held: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        held = getattr(held, name, None)
    return held is cls


def _not_async(binding: Binding) -> Iterator[Problem]:
    handle: Any = getattr(binding.cls, "handle", None)
    if handle is None:
        return
    handle = inspect.unwrap(handle)
    if binding.kind in (StreamRequestHandler, StreamPipelineBehavior):
        if inspect.iscoroutinefunction(handle) or inspect.isgeneratorfunction(handle):
            text = "has a `handle` that is no async generator. Write `async def handle(...)` with `yield` in it."
            yield Problem(binding.label, binding.cls.__name__, text)
    elif not inspect.iscoroutinefunction(handle):
        yield Problem(
            binding.label, binding.cls.__name__, "has a `handle` that is not async. Write `async def handle(...)`."
        )


def _wrong_kind(binding: Binding) -> Iterator[Problem]:
    wanted = _KINDS[binding.kind]
    for message in binding.messages:
        if not issubclass(message, wanted):
            text = f"is a {binding.kind.__name__} of {message.__name__}, which does not derive from {wanted.__name__}."
            yield Problem(binding.label, binding.cls.__name__, text)


def _of_several_kinds(binding: Binding) -> Iterator[Problem]:
    for message in binding.messages:
        kinds = [kind.__name__ for kind in _KINDS.values() if issubclass(message, kind)]
        if len(kinds) > 1:
            yield Problem(binding.label, binding.cls.__name__, str(MessageDeclarationError(message, kinds)))


def _wrong_strategy(binding: Binding) -> Iterator[Problem]:
    """A notification whose class names something as its strategy that is none."""
    for message in binding.messages:
        strategy = message.publish_strategy if issubclass(message, Notification) else None
        try:
            if strategy is not None:
                check_strategy(strategy)
        except SettingError as error:
            yield Problem(binding.label, binding.cls.__name__, f"{message.__name__}.publish_strategy: {error}")


def _wrong_result(binding: Binding) -> Iterator[Problem]:
    returned = (type_arguments(binding.cls, binding.kind) or ())[1:2]
    for message in binding.messages:
        promised = type_arguments(message, _ONE_HANDLER[binding.kind])
        if promised and returned and not fits(returned[0], promised[0]):
            verb = "returns" if binding.kind is RequestHandler else "yields"
            text = f"{verb} {spelled(returned[0])}, but {message.__name__} is a request for {spelled(promised[0])}."
            yield Problem(binding.label, binding.cls.__name__, text)


def _ambiguous(requests: list[Binding]) -> Iterator[Problem]:
    by_message: dict[Any, list[Binding]] = {}
    for binding in requests:
        for message in binding.families:
            by_message.setdefault(message, []).append(binding)
    for message, bindings in by_message.items():
        labels = list(dict.fromkeys(binding.label for binding in bindings))
        if len(labels) > 1:
            text = (
                f"handles {spelled(message)}, which has {len(labels)} handlers: {', '.join(labels)}. Exactly one is "
                "allowed; one that wraps another takes it inline: `Factory(Outer, Factory(Inner))`."
            )
            yield Problem(labels[-1], bindings[-1].cls.__name__, text)
