"""Resolution: compiles a provider into a faster function that returns the same objects.

At every call, a provider of dependency-injector builds lists and dictionaries of arguments, and looks for futures
among the arguments. If no dependency of a `Factory` is asynchronous, this work is unnecessary: the factory's class can
be called directly. This module compiles such direct calls for mediators, and for providers whose type is exactly
`Factory` or `Scoped`. Providers of other kinds are called as usual.

Overriding a provider, at any depth, takes effect at once, because each call checks whether the provider is overridden.
Whether the provider is asynchronous, and whether its arguments have changed, is checked only once after each `forget`.
A check at each call would take too long. `forget` is called when a container starts or stops, when a resource has
started, and around `override`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from operator import call, is_
from typing import Any

from dependency_injector import providers

from mediator.dependency_injector.provider_kinds import is_provider
from mediator.dependency_injector.scoped import Scoped
from mediator.pipeline import Source
from mediator.scope import running_scope


class _Generation:
    """A generation is the time between two calls of `forget`. `current` is a new object in each generation."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current = object()


_generation = _Generation()  # for all containers, since they may use each other's providers


def forget() -> None:
    """Make every compiled provider check again what its arguments are, and whether it is asynchronous."""
    _generation.current = object()


def forget_modes(container: Any) -> None:
    """Make every provider find out again whether it is asynchronous.

    dependency-injector finds this out only once, at the first call. A started resource provides a plain object instead of
    a future. Providers that use a started resource need no futures either, and become about twenty times as fast.
    """
    for provider in container.traverse():
        provider.reset_async_mode()
    forget()


class Resolution:
    """Compiles each provider of a container once. Besides `Factory` and `Scoped`, the kinds in `own` are compiled."""

    def __init__(self, own: Mapping[type, Callable[[Any], Source]] | None = None) -> None:
        self._own = own or {}
        self._compiled: dict[Any, Source] = {}

    def compiled(self, source: Source) -> Source:
        """Return a faster function that gives the same objects as `source`, or `source` itself if no function is faster."""
        kind: Any = type(source)
        if kind is not providers.Factory and kind is not Scoped and kind not in self._own:
            return source
        if source not in self._compiled:
            self._compiled[source] = source  # for a provider that depends on itself
            self._compiled[source] = self._compile(kind, source)
        return self._compiled[source]

    def _compile(self, kind: Any, provider: Any) -> Source:
        if kind is Scoped:
            build: Source = partial(providers.Factory[Any].__call__, provider)
            return _scoped(provider, self._constructed(provider, build) or build)
        if kind is providers.Factory:
            return self._constructed(provider, provider) or provider
        return self._own[kind](provider)

    def _constructed(self, provider: Any, build: Source) -> Source | None:
        """Return a function that calls the class of a factory directly; `None` when a direct call is not possible."""
        args, kwargs = provider.args, provider.kwargs
        if provider.attributes or not callable(provider.provides) or None in map(_is_called, [*args, *kwargs.values()]):
            return None
        shortcut, provides = _Shortcut(provider, build), provider.provides
        positional = tuple(self._given(value) for value in args)
        named = tuple((name, self._given(value)) for name, value in kwargs.items())
        if not named and len(positional) < len(_BY_COUNT):
            return _BY_COUNT[len(positional)](shortcut, provider, provides, *positional)
        if len(named) == 1 and not positional:
            return _calling_with_one_named(shortcut, provider, provides, *named[0])
        return _calling_with_any(shortcut, provider, provides, positional, named)

    def _given(self, value: Any) -> Source:
        return self.compiled(value) if _is_called(value) else _giving(value)


class _Shortcut:
    """Records whether the class of a factory may be called directly, instead of the factory.

    `checked` is the generation in which a direct call is allowed; `None` when no direct call is allowed.
    """

    __slots__ = ("_before", "_build", "_changed", "_provider", "checked")

    def __init__(self, provider: Any, build: Source) -> None:
        self._provider = provider
        self._build = build
        self._before = _injections(provider)
        self._changed = False
        self.checked: object = None

    def detour(self) -> Any:
        """Call the factory, return its object, and record whether the next call may be direct."""
        generation = _generation.current
        made = self._build()
        if not self._changed and self._provider.is_async_mode_disabled():
            after = _injections(self._provider)
            self._changed = len(self._before) != len(after) or not all(map(is_, self._before, after))
            self.checked = None if self._changed else generation
        return made


def _injections(provider: Any) -> list[Any]:
    """Return everything that a provider injects. The caller compares the items by identity."""
    args, kwargs, attributes = provider.args, provider.kwargs, provider.attributes
    return [provider.provides, len(args), *args, len(kwargs), *kwargs, *kwargs.values(), *attributes.values()]


def _is_called(value: Any) -> bool | None:
    """Return whether a factory calls an injected value; `None` when the answer can change over time."""
    if not is_provider(value):
        return False
    if not providers.is_delegated(value):
        return True
    kind: Any = value.__class__
    return False if getattr(kind, "__IS_DELEGATED__", False) is True else None


def _giving(value: Any) -> Source:
    def resolve() -> Any:
        return value

    return resolve


# Unpacking arguments costs as much time as a direct call saves, so there is a function for each usual number of
# arguments. Like the provider itself, each function first checks whether the provider is overridden, and only then calls
# the injected providers.


def _calling_with_none(shortcut: _Shortcut, provider: Any, provides: Any) -> Source:
    def resolve() -> Any:
        if shortcut.checked is _generation.current and provider.last_overriding is None:
            return provides()
        return shortcut.detour()

    return resolve


def _calling_with_one(shortcut: _Shortcut, provider: Any, provides: Any, first: Source) -> Source:
    def resolve() -> Any:
        if shortcut.checked is _generation.current and provider.last_overriding is None:
            return provides(first())
        return shortcut.detour()

    return resolve


def _calling_with_two(shortcut: _Shortcut, provider: Any, provides: Any, first: Source, second: Source) -> Source:
    def resolve() -> Any:
        if shortcut.checked is _generation.current and provider.last_overriding is None:
            return provides(first(), second())
        return shortcut.detour()

    return resolve


def _calling_with_three(shortcut: _Shortcut, provider: Any, provides: Any, *values: Source) -> Source:
    first, second, third = values

    def resolve() -> Any:
        if shortcut.checked is _generation.current and provider.last_overriding is None:
            return provides(first(), second(), third())
        return shortcut.detour()

    return resolve


_BY_COUNT: tuple[Callable[..., Source], ...] = (
    _calling_with_none,
    _calling_with_one,
    _calling_with_two,
    _calling_with_three,
)


def _calling_with_one_named(shortcut: _Shortcut, provider: Any, provides: Any, name: str, value: Source) -> Source:
    def resolve() -> Any:
        if shortcut.checked is _generation.current and provider.last_overriding is None:
            return provides(**{name: value()})
        return shortcut.detour()

    return resolve


def _calling_with_any(
    shortcut: _Shortcut, provider: Any, provides: Any, values: tuple[Source, ...], named: tuple[tuple[str, Source], ...]
) -> Source:
    def resolve() -> Any:
        if shortcut.checked is not _generation.current or provider.last_overriding is not None:
            return shortcut.detour()
        args = [*map(call, values)]
        kwargs: dict[str, Any] = {}
        for name, value in named:
            kwargs[name] = value()
        return provides(*args, **kwargs)

    return resolve


_MISSING = object()


def _scoped(provider: Scoped[Any], build: Source) -> Source:
    def resolve() -> Any:
        scope = running_scope()
        if scope is None:
            return provider()  # raises `ScopeError`
        kept = scope.kept(provider, _MISSING)
        return provider.make(scope, build) if kept is _MISSING else kept

    return resolve
