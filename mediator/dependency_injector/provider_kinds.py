"""Kinds of providers, and relations between providers.

The kind of a provider decides what attributes the provider has. The kind is tested with `isinstance`, never with `hasattr`:
some kinds (`ConfigurationOption`, `Selector`, `ProvidedInstance`) return a new provider for every attribute name.
"""

from collections.abc import Iterator
from typing import Any

from dependency_injector import providers

Kinds = tuple[type[Any], ...]

CALLING: Kinds = (providers.Callable, providers.Factory, providers.BaseSingleton, providers.BaseResource)
"""Providers that call `provides` with `args` and `kwargs`."""

KEEPING: Kinds = (providers.BaseSingleton, providers.BaseResource)
"""Providers that make one object and keep it as long as the application lives."""

MAKING_ANEW: Kinds = (providers.Factory, providers.ContextLocalSingleton)
"""Providers that return a new object in each dispatch."""

FACTORIES: Kinds = (providers.Factory,)
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
"""Providers that work only when they are overridden."""

CONFIGURATIONS: Kinds = (providers.Configuration,)
OPTIONS: Kinds = (providers.ConfigurationOption,)
SETTINGS: Kinds = (*CONFIGURATIONS, *OPTIONS)
PLACEHOLDERS: Kinds = (providers.Self, providers.DependenciesContainer)
"""Providers that stand for a whole container, not for an object in a container."""

_RESOLVES_NOTHING: Kinds = (*DELEGATES, *SETTINGS, *CONTAINERS, *PLACEHOLDERS, providers.Aggregate)


def is_provider(value: Any) -> bool:
    """Return whether a value is a provider of any kind."""
    return bool(providers.is_provider(value))


def is_in_place(provider: Any, memo: Any) -> bool:
    """Return whether `provider` replaces a provider of the base container. `containers.copy` puts replacements into `memo`.

    A replacement must not be copied: the derived container would provide the copy, but inherited providers would use the
    replacement itself. One container would have two mediators, or one scope two instances.
    """
    return any(each is provider for each in memo.values())


def overriding(provider: Any) -> Any:
    """Return the provider that overrides a provider, typed as `Any`; `None` when it is not overridden."""
    return provider.last_overriding


def dependencies(provider: Any) -> Iterator[Any]:
    """Yield the providers that a call of the given provider calls. A delegate (`x.provider`) calls none."""
    if provider.last_overriding is not None:
        yield provider.last_overriding
    elif not isinstance(provider, _RESOLVES_NOTHING):
        yield from provider.related


def parts(provider: Any) -> Iterator[Any]:
    """Yield the providers that a provider contains, that is, the providers that it calls, passes on or reads.

    An overridden provider contains only the provider that overrides it.
    """
    if provider.last_overriding is not None:
        yield provider.last_overriding
    elif not isinstance(provider, (*CONTAINERS, *PLACEHOLDERS, *CONFIGURATIONS)):
        if isinstance(provider, OPTIONS):
            yield provider._get_root()  # noqa: SLF001  # there is no public way to the configuration of an option
        yield from provider.related


def effective(provider: Any) -> Any:
    """Return the provider that is called in the end.

    An overridden provider calls the overriding provider, and a `Dependency` calls the provider that it was given.
    """
    seen = {provider}
    while True:
        following = provider.last_overriding
        if following is None and isinstance(provider, DEPENDENCIES):
            following = provider.default
        if following is None or following in seen:
            return provider
        seen.add(following)
        provider = following


def is_copy(provider: Any, other: Any) -> bool:
    """Return whether two providers are of the same kind and have equal arguments, so that their objects are alike."""
    if provider is other:
        return True
    if type(provider) is not type(other) or provider.last_overriding is not None or other.last_overriding is not None:
        return False
    if isinstance(provider, CALLING):
        own, others = _given(provider), _given(other)
        return len(own) == len(others) and all(map(_is_same, own, others))
    own, others = list(parts(provider)), list(parts(other))
    return bool(own) and len(own) == len(others) and all(map(is_copy, own, others))


def _given(provider: Any) -> list[Any]:
    attributes = provider.attributes if isinstance(provider, (providers.Factory, providers.BaseSingleton)) else {}
    named = {**provider.kwargs, **attributes}
    return [provider.provides, *provider.args, *named, *named.values()]


def _is_same(value: Any, other: Any) -> bool:
    if is_provider(value) and is_provider(other):
        return is_copy(value, other)
    return value is other or (type(value) is type(other) and bool(value == other))
