"""Declared provider: one that a container holds under a name, and the class of what it gives."""

from collections.abc import Iterable, Iterator
from typing import Any

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.annotations import returned_class
from mediator.errors import ContainerError
from mediator.handlers import class_of

Named = tuple[str, Any]
"""A provider after the path to it from the container: `("billing.engine", ...)`."""


def check_instance(container: Any) -> None:
    """Make sure that a container is an instance.

    Raises:
        ContainerError: It is a class, or `None`.
    """
    if container is None or isinstance(container, type):
        name = "AppContainer" if container is None else container.__name__
        found = "no container" if container is None else f"the container class {name}"
        text = f"An instance of a container is needed, and this is {found}. Make one first: `container = {name}()`."
        raise ContainerError(container, text)


def declared_providers(container: Any, prefix: str = "") -> Iterator[Named]:
    """The named providers of a container and of those nested in it, in the order of declaration."""
    for name, provider in container.providers.items():
        path = f"{prefix}{name}"
        if isinstance(provider, kinds.CONTAINERS):
            yield from declared_providers(provider.container, f"{path}.")
        elif not isinstance(provider, kinds.PLACEHOLDERS):
            yield path, provider


def distinct(named: Iterable[Named]) -> Iterator[Named]:
    """Each provider once, whatever other names it has in a container and in those nested in it."""
    named = list(named)
    known = {provider for _, provider in named}
    seen: set[Any] = set()
    for name, provider in named:
        target = target_of(provider)
        if target in seen or (target is not provider and target in known):
            continue  # another name of what was found, or will be found, under its own
        seen.add(target)
        yield name, provider


def target_of(provider: Any) -> Any:
    """What a `Dependency` was given; any other provider itself."""
    return kinds.effective(provider) if isinstance(provider, kinds.DEPENDENCIES) else provider


def provided_classes(provider: Any) -> tuple[type | None, ...]:
    """The class of what a provider gives; of a `Selector` that of each of its candidates."""
    candidates = provider.providers.values() if isinstance(provider, kinds.SELECTORS) else (provider,)
    return tuple(provided_class(candidate) for candidate in candidates)


def provided_class(provider: Any) -> type | None:
    """The class of what a provider gives, without calling it; `None` when nothing says it."""
    if isinstance(provider, kinds.DEPENDENCIES):
        cls: type = provider.instance_of
        return cls if cls is not object else _class_of_target(provider)
    if isinstance(provider, (*kinds.DELEGATES, *kinds.SETTINGS, *kinds.PLACEHOLDERS)):
        return None
    if isinstance(provider, kinds.OBJECTS):
        held: type = provider.provides.__class__
        return held if held is not type else None
    if isinstance(provider, kinds.CALLING):
        return _class_of_called(provider)
    return None


def _class_of_target(dependency: Any) -> type | None:
    target = kinds.effective(dependency)
    return None if isinstance(target, kinds.DEPENDENCIES) else provided_class(target)


def _class_of_called(provider: Any) -> type | None:
    provides = provider.provides
    if provides is None or kinds.is_provider(provides):
        return None
    resource = isinstance(provider, kinds.RESOURCES)
    cls = class_of(provides)
    if cls is None:
        return returned_class(provides, unwrap=resource)
    # A resource enters what can be entered, and gives what that returns.
    entered = resource and any(hasattr(cls, name) for name in ("__enter__", "__aenter__"))
    return None if entered else cls
