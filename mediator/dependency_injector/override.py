"""Override: replaces providers of a container, and lets everything that depends on them use the replacements."""

import difflib
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from dependency_injector import providers

from mediator.blocks import contextmanager
from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import named_providers
from mediator.dependency_injector.declared import check_instance, declared_providers
from mediator.dependency_injector.graph import Graph
from mediator.dependency_injector.mediator_provider import mediators_of
from mediator.dependency_injector.resolution import forget_modes
from mediator.errors import ContainerError, not_found

C = TypeVar("C")


@contextmanager
def override(container: C, **replacements: Any) -> Generator[C]:
    """Replace providers with other providers, or with objects, until the end of the block.

        with override(container, students=FakeStudents(), billing__gateway=providers.Factory(FakeGateway)):
            ...

    `billing__gateway` means the provider `gateway` in the nested container `billing`. In the same way,
    `handlers__EnrollStudentHandler` means the provider that the scan `handlers` has made for `EnrollStudentHandler`.

    There are three differences from `provider.override()`. A singleton that depends on a replaced provider is made again
    in the block, and once more after the block. An asynchronous provider may replace a synchronous provider. If a list
    of behaviors is replaced, the mediator with this list uses the replacement at once.

    A resource that replaces a provider is started by `lifespan`, so override before `lifespan`.

    Raises:
        NotFoundError: The container has no provider with one of the given names; nothing is replaced.
        ContainerError: The container is a class, or a started resource uses a provider to be replaced: override before
            `lifespan`.
    """
    check_instance(container)
    targets = _targets(container, replacements)
    dependents = Graph(container).dependents(targets) - set(targets)
    for provider in dependents:
        if isinstance(provider, kinds.RESOURCES) and provider.last_overriding is None and provider.initialized:
            raise ContainerError(
                container,
                f"{', '.join(replacements)} cannot be replaced now: a started resource already uses "
                f"{'one of them' if len(replacements) > 1 else 'it'}. Override before entering the lifespan.",
            )
    overridden: list[Any] = []
    try:
        for target, value in zip(targets, replacements.values(), strict=True):
            target.override(value)
            overridden.append(target)
        _refresh(container, dependents)
        yield container
    finally:
        for target in reversed(overridden):
            target.reset_last_overriding()
        _refresh(container, dependents)


def _targets(container: Any, replacements: dict[str, Any]) -> list[Any]:
    named = {_path(label): provider for label, provider in named_providers(container)}
    targets: list[Any] = []
    for name in replacements:
        path = name if name in named else name.replace("__", ".")
        if path not in named:
            nearest = difflib.get_close_matches(path, named, n=1)
            raise not_found.no_provider(name, [each.replace(".", "__") for each in nearest])
        targets.append(named[path])
    return targets


def _path(label: str) -> str:
    """Return the path of a label: `handlers.EnrollStudentHandler` for `container.handlers[EnrollStudentHandler]`."""
    return label.partition(".")[2].replace("[", ".").removesuffix("]")


def _refresh(container: Any, dependents: set[Any]) -> None:
    for provider in dependents:
        if isinstance(provider, kinds.SINGLETONS):
            provider.reset()
    forget_modes(container)
    for _, mediator in mediators_of(container):
        mediator.own()


ContainerClass = TypeVar("ContainerClass", bound=type)


def rewired(cls: ContainerClass) -> ContainerClass:
    """Let all inherited providers of a derived container use the providers that the derived container redeclares.

        @rewired
        class PooledContainer(AppContainer):
            engine = providers.Resource(open_pooled_engine, AppContainer.config.database.url)

    Without the decorator, the unit of work that `AppContainer` declares keeps using the engine of `AppContainer`: a
    provider keeps the arguments it was made with. A redeclared provider may wrap the provider of the base class:
    `clock = providers.Factory(SlowClock, AppContainer.clock)`. The base class is not changed.

    `@containers.copy(AppContainer)` does not fit here: `PooledContainer` would open two engines. `container.engine`
    would provide one engine, and the inherited providers would use a second engine.
    """
    container: Any = cls
    bases: list[Any] = [base for base in cls.__mro__[1:] if hasattr(base, "cls_providers")]
    memo: dict[int, Any] = {id(base.__self__): container.__self__ for base in bases}
    named = dict(declared_providers(container))
    earlier = {provider: name for provider, (name, _) in earlier_providers(container).items() if name in named}
    begun: set[str] = set()
    for name in dict.fromkeys(earlier.values()):
        _copy(name, named, earlier, begun, memo)
    copies: dict[str, Any] = providers.deepcopy(container.providers, memo)
    for name, provider in copies.items():
        setattr(container, name, provider)
    return cls


def _copy(name: str, named: dict[str, Any], earlier: dict[Any, str], begun: set[str], memo: dict[int, Any]) -> None:
    """Copy the redeclared provider called `name`. Redeclared providers inside this provider are copied first.

    The copy is put into `memo` for each earlier provider (see `earlier_providers`) called `name`. Providers that are
    copied later with `memo` use the copy instead of the earlier provider.
    """
    if name in begun:
        return
    begun.add(name)
    for inner in _inside(named[name]):
        if inner in earlier:
            _copy(earlier[inner], named, earlier, begun, memo)
    before = [provider for provider, its_name in earlier.items() if its_name == name]
    with _overriding_nothing(before):
        copied = providers.deepcopy(named[name], memo)
    memo.update({id(provider): copied for provider in before})


@contextmanager
def _overriding_nothing(earlier: Sequence[Any]) -> Generator[None]:
    """For the block, detach earlier providers (see `earlier_providers`) from the providers that they override.

    A redeclared `clock` may contain the earlier `clock`, which overrides `timer`. Without the block, copying the redeclared
    `clock` would also copy `timer`, and a copy of the earlier `clock` would override this copy of `timer`. In the block,
    `timer` is not copied. Later, `timer` is copied with `memo`, and the redeclared `clock` overrides the copy of `timer`.
    """
    overridden = [(provider, target) for provider in earlier for target in tuple(provider.overrides)]
    for provider, target in overridden:
        provider.unregister_overrides(target)
    try:
        yield
    finally:
        for provider, target in overridden:
            provider.register_overrides(target)


def _inside(provider: Any) -> list[Any]:
    """Return all providers that a provider contains, at any depth, including providers in a nested container."""
    found: dict[Any, None] = {}
    waiting = [provider]
    for each in waiting:  # the list grows during the loop
        nested = each.container.providers.values() if isinstance(each, kinds.CONTAINERS) else ()
        news = [inner for inner in (*kinds.parts(each), *nested) if inner not in found]
        found |= dict.fromkeys(news)
        waiting += news
    return list(found)


def earlier_providers(cls: Any) -> dict[Any, tuple[str, type]]:
    """Return the earlier providers of a container class.

    A base class declares an earlier provider, and a derived class declares another provider under the same name. The
    values are pairs of a name and a base class. In a nested container, the name is a path, such as `"billing.engine"`.
    """
    found: dict[Any, tuple[str, type]] = {}
    for base in cls.__mro__:
        for name, provider in getattr(base, "cls_providers", {}).items():
            if provider is not cls.providers.get(name):
                found.setdefault(provider, (name, base))
                if isinstance(provider, kinds.CONTAINERS):
                    for path, each in declared_providers(provider.container, f"{name}."):
                        found.setdefault(each, (path, base))
    return found
