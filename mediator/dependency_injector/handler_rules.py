"""Rules for handlers: each request has exactly one handler, which is async and returns the request's response type."""

import difflib
import inspect
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from mediator.binding import Binding
from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import Catalog
from mediator.dependency_injector.declared import is_for_use, path_of, roles_of
from mediator.distributed.events import DistributedEvent
from mediator.distributed.inbox import DistributedEventHandler
from mediator.errors import Problem, SettingError, misuse
from mediator.handlers import NotificationHandler, RequestHandler, StreamRequestHandler, fits, spelled, type_arguments
from mediator.messages import Notification, Request, StreamRequest, kinds_of_message
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
    """Yield the faults of the handlers and behaviors of one mediator."""
    for binding in (*catalog.handlers, *catalog.behaviors):
        yield from _not_async(binding)
    yield from find_uncallable(catalog.bindings)
    for binding in catalog.handlers:
        yield from _wrong_kind(binding)
    for binding in catalog.bindings:
        yield from _of_several_kinds(binding)
        yield from _wrong_strategy(binding)
    requests = [binding for binding in catalog.handlers if binding.kind in _ONE_HANDLER]
    for binding in requests:
        yield from _wrong_result(binding)
    yield from _ambiguous(requests)


def find_unprovided(container: Any, catalogs: Iterable[Catalog], path: str = "container") -> Iterator[Problem]:
    """Yield a problem for each handler that is a plain attribute of a container, and has no provider.

    No mediator would find the handler in `enroll = EnrollHandler`. A handler class that also has a provider is no
    problem: the class may be defined inside the container, for example.
    """
    provided = {binding.cls for catalog in catalogs for binding in catalog.handlers}
    for name, held in _held(container).items():
        cls = held if isinstance(held, type) else type(held)
        if cls in provided or not any(role in _KINDS for role in roles_of(cls)) or not is_for_use(cls):
            continue
        kind, given = ("class", "Factory") if held is cls else ("object", "Object")
        argument = cls.__name__ if held is cls else "..."
        text = (
            f"is the {kind} itself, which no mediator finds. Declare a provider of it: "
            f"`{name} = providers.{given}({argument}{', ...' * (held is cls)})`."
        )
        yield Problem(f"{path}.{name}", cls.__name__, text)
    for name, provider in container.providers.items():
        if isinstance(provider, kinds.CONTAINERS):
            yield from find_unprovided(provider.container, catalogs, f"{path}.{name}")


def _held(container: Any) -> dict[str, Any]:
    """Return the non-provider attributes of a container and its class, and the classes in `Object` providers."""
    declared: Any = container.declarative_parent
    classes: list[type] = [] if declared is None else list(reversed(declared.__mro__))
    named: dict[str, Any] = {name: value for cls in classes for name, value in vars(cls).items()}
    own: dict[str, Any] = container.__dict__
    named.update(own)
    held = {name: value for name, value in named.items() if not kinds.is_provider(value)}
    for name, provider in container.providers.items():
        if isinstance(provider, kinds.OBJECTS) and isinstance(provider.provides, type):
            held[name] = provider.provides
    return held


def find_unhandled(
    catalogs: Iterable[Catalog], requests: Iterable[type], packages: Iterable[str], where: str
) -> Iterator[Problem]:
    """Yield a problem for each request that no mediator handles.

    The checked requests are the `requests`, and all request classes that are declared in the `packages`. The problems
    have the label `where`, since no provider is at fault.
    """
    handlers = [binding for catalog in catalogs for binding in catalog.handlers if binding.kind in _ONE_HANDLER]
    names = [message.__name__ for binding in handlers for message in binding.messages]
    given: tuple[Any, ...] = (requests,) if isinstance(requests, type) else tuple(requests)
    searched = (packages,) if isinstance(packages, str) else tuple(packages)
    declared = [request for base in _ONE_HANDLER.values() for request in declared_classes(base, searched)]
    for request in dict.fromkeys([*given, *declared]):
        if (problem := _no_request(request)) is not None:
            yield Problem(where, *problem)
        elif len(kinds := kinds_of_message(request, DistributedEvent)) > 1:
            yield Problem(where, path_of(request), str(misuse.several_kinds(request, kinds)))
        elif not any(binding.takes(request) for binding in handlers):
            nearest = difflib.get_close_matches(request.__name__, names, n=2)
            yield Problem(where, path_of(request), str(misuse.no_handler(request, nearest)))


def _no_request(given: Any) -> tuple[str, str] | None:
    """Return the name of an item of `requests`, and the reason why the item is not a request; `None` for a request."""
    if not isinstance(given, type):
        name = type(given).__name__
        return name, f"is an object, but `requests` has to name classes. Write `requests=[{name}]`."
    if issubclass(given, (*_ONE_HANDLER.values(),)):
        return None
    text = "no request. Derive it from Command, Query or StreamRequest, or name the request that the class handles."
    if issubclass(given, Notification):
        text = "a notification, which may have any number of handlers and needs none. Leave it out."
    elif issubclass(given, DistributedEvent):
        text = "a distributed event, which other applications may handle and this one need not. Leave it out."
    return path_of(given), f"is named in `requests`, but is {text}"


def declared_classes(base: type, packages: Iterable[str]) -> list[type]:
    """Return the classes that derive from `base`, have no subclasses, and are in modules of the given packages.

    A class counts only if it is found in its module under its name. This leaves out classes inside functions, and classes
    that `@dataclass(slots=True)` has replaced by a copy.
    """
    prefixes = tuple(f"{package}." for package in packages)
    found: dict[type, None] = {}
    waiting: list[type] = list(base.__subclasses__())
    for cls in waiting:  # the list grows during the loop
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
    elif inspect.isasyncgenfunction(handle):
        text = "has a `handle` with `yield`, which yields items instead of a response. Return the response, without `yield`."
        yield Problem(binding.label, binding.cls.__name__, text)
    elif not inspect.iscoroutinefunction(handle):
        text = "has a `handle` that is not async. Write `async def handle(...)`."
        yield Problem(binding.label, binding.cls.__name__, text)


def find_uncallable(bindings: Iterable[Binding]) -> Iterator[Problem]:
    """Yield a problem for each method that does not accept the arguments which its base class declares."""
    for binding in bindings:
        names: frozenset[str] = getattr(binding.kind, "__abstractmethods__", frozenset())
        for name in sorted(names):
            wanted = list(inspect.signature(getattr(binding.kind, name)).parameters)[1:]  # as the base declares them
            shown = _misfit(binding.cls, name, len(wanted))
            if shown is not None:
                given = f"{', '.join(wanted[:-1])} and {wanted[-1]}" if len(wanted) > 1 else wanted[0]
                remedy = f"Write `{name}(self, {', '.join(wanted)})`."
                text = f"has a `{name}{shown}`, which cannot be called with {given}. {remedy}"
                yield Problem(binding.label, binding.cls.__name__, text)


def _misfit(cls: type, name: str, count: int) -> str | None:
    """Return the signature of a method that cannot be called with `count` arguments.

    Return `None` when the method can be called, does not exist, or has an unknown signature.
    """
    method: Any = inspect.getattr_static(cls, name, None)
    bound = getattr(cls, name, None)
    if not callable(bound) or getattr(bound, "__isabstractmethod__", False):
        return None
    try:
        signature = inspect.signature(bound)
    except (TypeError, ValueError):  # a function in C has no signature
        return None
    try:
        signature.bind(*[object()] * (count + inspect.isfunction(method)))
    except TypeError:
        shown = [each.replace(annotation=each.empty, default=each.empty) for each in signature.parameters.values()]
        return str(signature.replace(parameters=shown, return_annotation=signature.empty))
    return None


def _wrong_kind(binding: Binding) -> Iterator[Problem]:
    wanted = _KINDS[binding.kind]
    for message in binding.messages:
        if not issubclass(message, wanted):
            text = f"is a {binding.kind.__name__} of {message.__name__}, which does not derive from {wanted.__name__}."
            yield Problem(binding.label, binding.cls.__name__, text)


def _of_several_kinds(binding: Binding) -> Iterator[Problem]:
    for message in binding.messages:
        kinds = kinds_of_message(message, DistributedEvent)
        if len(kinds) > 1:
            yield Problem(binding.label, binding.cls.__name__, str(misuse.several_kinds(message, kinds)))


def _wrong_strategy(binding: Binding) -> Iterator[Problem]:
    """Yield a problem for each notification whose `publish_strategy` is not a strategy."""
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
                "allowed. If one handler wraps another one, declare the wrapped one inline: "
                "`Factory(Outer, Factory(Inner))`."
            )
            yield Problem(labels[-1], bindings[-1].cls.__name__, text)
