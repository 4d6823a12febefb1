"""Kinds of providers: what may be asked of a provider, and how it stands to others.

A provider is only ever asked by `isinstance`: many kinds (`ConfigurationOption`, `Selector`, `ProvidedInstance`) answer
any attribute with a new provider, so probing with `getattr` would not end.
"""

from collections.abc import Iterator
from typing import Any

from dependency_injector import providers

Kinds = tuple[type[Any], ...]

CALLING: Kinds = (providers.Callable, providers.Factory, providers.BaseSingleton, providers.BaseResource)
"""They call something with arguments: `provides`, `args`, `kwargs`."""

KEEPING: Kinds = (providers.BaseSingleton, providers.BaseResource)
"""They keep what they made for as long as the application lives."""

MAKING_ANEW: Kinds = (providers.Factory, providers.ContextLocalSingleton)
"""What they give to one dispatch another one does not get."""

RESOURCES: Kinds = (providers.BaseResource,)
SINGLETONS: Kinds = (providers.BaseSingleton,)
DEPENDENCIES: Kinds = (providers.Dependency,)
DELEGATES: Kinds = (providers.Delegate,)
SELECTORS: Kinds = (providers.Selector,)
OBJECTS: Kinds = (providers.Object,)
LISTS: Kinds = (providers.List,)
CONTAINERS: Kinds = (providers.Container,)
ABSTRACT: Kinds = (
    providers.AbstractFactory,
    providers.AbstractSingleton,
    providers.AbstractCallable,
    providers.AbstractCoroutine,
)
"""They work only when they are overridden."""

SETTINGS: Kinds = (providers.Configuration, providers.ConfigurationOption)
PLACEHOLDERS: Kinds = (providers.Self, providers.DependenciesContainer)
"""They stand for a container, not for an object in it."""

_RESOLVES_NOTHING: Kinds = (*DELEGATES, *SETTINGS, *CONTAINERS, *PLACEHOLDERS, providers.Aggregate)


def is_provider(value: Any) -> bool:
    """Whether a value is a provider of any kind."""
    return bool(providers.is_provider(value))


def overriding(provider: Any) -> Any:
    """What overrides a provider, `None` when nothing does."""
    return provider.last_overriding


def dependencies(provider: Any) -> Iterator[Any]:
    """The providers that are called whenever this one is. A delegate (`x.provider`) calls nothing."""
    if provider.last_overriding is not None:
        yield provider.last_overriding
    elif not isinstance(provider, _RESOLVES_NOTHING):
        yield from provider.related


def effective(provider: Any) -> Any:
    """What really answers a call: the overriding provider, and what a `Dependency` was given."""
    seen = {provider}
    while True:
        following = provider.last_overriding
        if following is None and isinstance(provider, DEPENDENCIES):
            following = provider.default
        if following is None or following in seen:
            return provider
        seen.add(following)
        provider = following
