"""Declared providers: the named providers of a container, and the classes of the objects that they provide."""

import collections.abc
import contextlib
import inspect
import typing
from abc import ABC
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from mediator.collaborators import kinds_of
from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.provider_kinds import Kinds
from mediator.distributed.inbox import DistributedEventHandler
from mediator.errors import ContainerError
from mediator.handlers import (
    UNIONS,
    NotificationHandler,
    RequestHandler,
    StreamRequestHandler,
    class_of,
    fits,
    type_arguments,
)

_WRAPPERS = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncGenerator,
    collections.abc.AsyncIterable,
    collections.abc.Iterator,
    collections.abc.Generator,
    collections.abc.Iterable,
    contextlib.AbstractContextManager,
    contextlib.AbstractAsyncContextManager,
)
_TAKING_CLASSES = (None, type, object, typing.get_origin(collections.abc.Callable[..., Any]))


def hints_of(function: Any) -> dict[str, Any]:
    """Return the annotations of a function, or of the constructor of a class; empty when they cannot be read."""
    if isinstance(function, type):
        function = inspect.getattr_static(function, "__init__")
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except Exception:  # some names exist for type checkers only; unknown annotations are not checked
        return {}


def returned_class(function: Any, *, unwrap: bool) -> type | None:
    """Return the class in a function's return annotation, or `None`.

    With `unwrap`, return the class that a generator yields, or that a context manager returns on entering.
    """
    annotation = hints_of(function).get("return")
    if unwrap and typing.get_origin(annotation) in _WRAPPERS:
        annotation = typing.get_args(annotation)[0]
    return class_of(annotation)


def class_fits(given: type, wanted: Any) -> bool:
    """Return whether an instance of `given` fits the annotation `wanted`; true for an annotation without a class."""
    if typing.get_origin(wanted) in UNIONS:
        return any(class_fits(given, member) for member in typing.get_args(wanted))
    wanted_class = class_of(wanted)
    return wanted_class is None or fits(given, wanted_class)


def takes_class(wanted: Any) -> bool:
    """Return whether a class itself fits the annotation `wanted`; true for an annotation without a class."""
    if typing.get_origin(wanted) in UNIONS:
        return any(takes_class(member) for member in typing.get_args(wanted))
    cls = class_of(wanted)
    return cls in _TAKING_CLASSES or getattr(cls, "_is_protocol", False)


Named = tuple[str, Any]
"""The path of a provider in the container, and the provider: `("billing.engine", ...)`."""


def check_instance(container: Any) -> None:
    """Raise a `ContainerError` if a container is `None`, or a class instead of an instance."""
    if container is None or isinstance(container, type):
        name = "AppContainer" if container is None else container.__name__
        found = "no container" if container is None else f"the container class {name}"
        text = f"An instance of a container is needed, but this is {found}. Make one first: `container = {name}()`."
        raise ContainerError(container, text)


def declared_providers(container: Any, prefix: str = "") -> Iterator[Named]:
    """Yield the named providers of a container and of nested containers, in the order of declaration."""
    for name, provider in container.providers.items():
        path = f"{prefix}{name}"
        if isinstance(provider, kinds.CONTAINERS):
            yield from declared_providers(provider.container, f"{path}.")
        elif not isinstance(provider, kinds.PLACEHOLDERS):
            yield path, provider


def distinct(named: Iterable[Named]) -> Iterator[Named]:
    """Yield each provider once, even if it has several names.

    If a `Dependency` and the provider that it was given are both in `named`, the `Dependency` is left out.
    """
    named = list(named)
    known = {provider for _, provider in named}
    seen: set[Any] = set()
    for name, provider in named:
        target = target_of(provider)
        if target in seen or (target is not provider and target in known):
            continue
        seen.add(target)
        yield name, provider


def target_of(provider: Any) -> Any:
    """Return the provider that a `Dependency` was given. For every other provider, return the provider itself."""
    return kinds.effective(provider) if isinstance(provider, kinds.DEPENDENCIES) else provider


def provided_classes(provider: Any) -> tuple[type | None, ...]:
    """Return the class of the object that a provider returns, or the classes of all candidates of a `Selector`."""
    candidates = provider.providers.values() if isinstance(provider, kinds.SELECTORS) else (provider,)
    return tuple(provided_class(candidate) for candidate in candidates)


def gives(provider: Any, cls: type) -> bool:
    """Return whether the object of a provider is known to be of the class `cls`, or of a class derived from `cls`."""
    found = provided_class(provider)
    return found is not None and issubclass(found, cls)


def provided_class(provider: Any) -> type | None:
    """Return the class of the object that a provider would return; `None` when the class is unknown."""
    if isinstance(provider, kinds.DEPENDENCIES):
        cls: type = provider.instance_of
        if cls is not object:
            return cls
        target = kinds.effective(provider)
        return None if isinstance(target, kinds.DEPENDENCIES) else provided_class(target)
    if isinstance(provider, (*kinds.DELEGATES, *kinds.SETTINGS, *kinds.PLACEHOLDERS)):
        return None
    if isinstance(provider, kinds.OBJECTS):
        held: type = provider.provides.__class__
        return held if held is not type else None
    if isinstance(provider, kinds.CALLING):
        return _class_of_called(provider)
    return None


def _class_of_called(provider: Any) -> type | None:
    provides = provider.provides
    if provides is None or kinds.is_provider(provides):
        return None
    resource = isinstance(provider, kinds.RESOURCES)
    cls = class_of(provides)
    if cls is None:
        return returned_class(provides, unwrap=resource)
    # A resource enters a context manager, and returns the result of entering.
    entered = resource and any(hasattr(cls, name) for name in ("__enter__", "__aenter__"))
    return None if entered else cls


HANDLERS: Kinds = (RequestHandler, NotificationHandler, StreamRequestHandler, DistributedEventHandler)


def path_of(cls: Any) -> str:
    """Return the full name of a class or function."""
    return f"{cls.__module__}.{cls.__qualname__}"


def roles_of(cls: type) -> tuple[type, ...]:
    """Return the kinds of handler and of collaborator that a class derives from; empty for most classes."""
    return (*(kind for kind in HANDLERS if issubclass(cls, kind)), *kinds_of(cls))


def is_for_use(cls: type) -> bool:
    """Return whether a class is a handler or a collaborator to instantiate, and not only a base class.

    A class that is abstract by mistake, such as a class with a misspelled `handle`, counts as a class to instantiate.
    The rule `find_unbuildable` then reports the mistake.
    """
    roles = roles_of(cls)
    if not roles or cls in roles:
        return False
    messages = [(type_arguments(cls, role) or (None,))[0] for role in roles]
    generic = all(isinstance(message, TypeVar) for message in messages)
    return not generic and not (inspect.isabstract(cls) and _is_base(cls))


def _is_base(cls: type) -> bool:
    adds = any(getattr(value, "__isabstractmethod__", False) for value in vars(cls).values())
    return adds or ABC in cls.__bases__ or bool(cls.__subclasses__())


UNKNOWN: Any = object()
"""Stands for an argument whose value cannot be read without calling the provider."""


def given_argument(provider: Any, name: str) -> Any:
    """Return the value that a provider passes for the parameter `name`, or the parameter's default.

    Return `UNKNOWN` when the value cannot be read, or when `provider` is not a provider.
    """
    if not kinds.is_provider(provider) or not isinstance(effective := kinds.effective(provider), kinds.CALLING):
        return UNKNOWN
    try:
        signature = inspect.signature(effective.provides)
        bound = signature.bind_partial(*effective.args, **effective.kwargs)
    except (TypeError, ValueError):  # the arguments do not fit, which `find_unbuildable` reports
        return UNKNOWN
    if name not in signature.parameters:
        return UNKNOWN
    bound.apply_defaults()
    return bound.arguments[name]
