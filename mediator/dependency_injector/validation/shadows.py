"""Rules for redeclared names: no provider may keep using the provider that a name had earlier.

In dependency-injector, a derived container class or an assignment can declare another provider under a name that already
has a provider. The replaced provider is called the earlier provider here. All providers that were made with the earlier
provider keep using the earlier provider: in a base class, `enroll = Factory(EnrollHandler, mediator)` keeps using the
mediator of the base class.

Redeclared names are looked for in container classes, where the earlier provider is the same object in the base class and
in its derived classes. Instances of containers have only copies of the providers.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dependency_injector import providers

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import named_providers
from mediator.dependency_injector.declared import declared_providers, distinct, provided_class
from mediator.dependency_injector.graph import class_name
from mediator.dependency_injector.mediator_provider import MediatorProvider
from mediator.dependency_injector.override import earlier_providers
from mediator.dependency_injector.scoped import Scoped
from mediator.errors import Problem

_SHARED: kinds.Kinds = (providers.BaseResource, Scoped)
"""Kinds of providers that return the same object to all their users."""


def find_shadowed(container: Any, path: str = "container") -> Iterator[Problem]:
    """Yield a problem for each name whose earlier provider is still used by other providers.

    Names in nested containers are checked as well. The labels of the problems begin with `path`.
    """
    declared = container.declarative_parent
    derived = [] if declared is None else list(_in_derived_class(declared, path))
    yield from derived
    known = {problem.label for problem in derived}
    reassigned = [*(_in_instance(container, declared, path) if declared else ()), *_nameless(container, path)]
    for problem in reassigned:
        if problem.label not in known:
            known.add(problem.label)
            yield problem
    for name, provider in container.providers.items():
        if isinstance(provider, kinds.CONTAINERS):
            yield from find_shadowed(provider.container, f"{path}.{name}")


# redeclared in a derived class


def _in_derived_class(cls: Any, path: str) -> Iterator[Problem]:
    earlier = earlier_providers(cls)
    named = dict(declared_providers(cls))
    held: dict[str, tuple[type, list[str]]] = {}
    for name, provider in named.items():
        others = (each for each, (its_name, _) in earlier.items() if its_name != name)
        for found in _held_by(provider, (*named.values(), *others)):
            before, base = earlier.get(found, (name, cls))
            if before != name and not _answers(found, named.get(before)) and not _is_missing(found):
                held.setdefault(before, (base, []))[1].append(f"{path}.{name}")
        if _wraps_itself(name, provider, earlier):
            text = (
                "gets itself as an argument: `@containers.copy` also replaces the base class's provider inside this "
                f"provider. Write `@rewired` above `class {cls.__name__}` instead."
            )
            yield Problem(f"{path}.{name}", class_name(provider), text)
    for name, (base, holders) in held.items():
        subject = class_name(named[name]) if name in named else ""
        yield Problem(f"{path}.{name}", subject, _shadowed(cls, name, base, holders))


def _answers(provider: Any, now: Any) -> bool:
    """Return whether the earlier provider and `now`, the current provider, call the same provider in the end."""
    return now is not None and kinds.effective(provider) is kinds.effective(now)


def _is_missing(provider: Any) -> bool:
    """Return whether a provider is a `Dependency` without a provider. `find_unbuildable` reports this fault."""
    return type(provider) is providers.Dependency and kinds.effective(provider) is provider


def _wraps_itself(name: str, provider: Any, earlier: dict[Any, tuple[str, type]]) -> bool:
    """Return whether `containers.copy` has made a provider contain a copy of itself.

    `containers.copy` changes `clock = Factory(Slow, Base.clock)` to `Factory(Slow, Factory(Slow, Base.clock))`.
    """
    alike = [each for each in kinds.parts(provider) if type(each) is type(provider) and isinstance(each, kinds.CALLING)]
    copies = [each for each in alike if each.provides is provider.provides]
    return any(earlier.get(each, ("",))[0] == name for inner in copies for each in kinds.parts(inner))


def _shadowed(cls: Any, name: str, base: type, holders: Sequence[str]) -> str:
    top = name.partition(".")[0]
    own = next((each for each in cls.__mro__ if getattr(each, "cls_providers", {}).get(top) is cls.providers[top]), cls)
    deriving = own if issubclass(own, base) else cls
    users = "they use" if len(set(holders)) > 1 else "it uses"
    return (
        f"is redeclared in {own.__name__}, but {_listed(holders)} still {_use(holders)} the provider of {base.__name__}. "
        f"Write `@rewired` above `class {deriving.__name__}`, so that {users} the new provider. In a test, use the base "
        f"class and `override(container, {name.replace('.', '__')}=...)`."
    )


# reassigned


def _in_instance(container: Any, cls: Any, path: str) -> Iterator[Problem]:
    """Yield a problem for each name that was assigned a provider too late, as in `container.engine = Object(fake)`.

    The other providers of this container instance keep using the engine that they were made with.
    """
    of_class = dict(declared_providers(cls))
    names = {provider: name for name, provider in of_class.items()}
    of_instance = dict(declared_providers(container))
    current = set(of_instance.values())
    held: dict[str, list[str]] = {}
    for name, provider in of_instance.items():
        pairs = [(of_class.get(name), provider)]
        seen: set[Any] = set()
        # The loop appends a pair for each part of a declared provider: the part, and the copy of this part in `made`.
        for declared, made in pairs:
            if declared is None or made in seen or type(declared) is not type(made):
                continue
            seen.add(made)
            is_copy = not isinstance(made, kinds.CALLING) or made.provides is declared.provides
            known = names.get(declared)
            if known is not None and known != name and made not in current and is_copy and known in of_instance:
                held.setdefault(known, []).append(f"{path}.{name}")
            elif known is None or known == name:
                inside, outside = list(kinds.parts(declared)), list(kinds.parts(made))
                pairs += zip(inside, outside, strict=True) if is_copy and len(inside) == len(outside) else ()
    for name, holders in held.items():
        if of_instance[name].last_overriding is None:  # an override says which provider to use
            yield _assigned(of_instance[name], name, holders, path)


def _nameless(container: Any, path: str) -> Iterator[Problem]:
    """Yield a problem for each named provider, if other providers use a similar provider that has no name.

    The nameless provider counts if it provides a mediator, or if several providers use it. A nameless resource or
    `Scoped` also counts if no provider uses the named provider.
    """
    named = list(named_providers(container, path))
    current = {provider for _, provider in named}
    holders: dict[Any, list[str]] = {}
    used: set[Any] = set()
    for label, provider in distinct(named):
        for each in _held_by(provider, current):
            used.add(each)
            if each not in current:
                holders.setdefault(each, []).append(label)
    for provider, labels in holders.items():
        for name, now in container.providers.items():
            meant = isinstance(provider, MediatorProvider) or len(labels) > 1
            meant = meant or (isinstance(provider, _SHARED) and now not in used)
            meant = meant and f"{path}.{name}" not in labels and not kinds.is_copy(provider, now)
            meant = meant and now.last_overriding is None
            if meant and _is_alike(provider, now):
                yield _assigned(now, name, labels, path)


def _is_alike(provider: Any, now: Any) -> bool:
    """Return whether the objects of two providers have the same class, or one of the two classes derives from the other."""
    mediators = [isinstance(each, MediatorProvider) for each in (provider, now)]
    if provider.last_overriding is not None or any(mediators) != all(mediators):
        return False
    one, other = provided_class(provider), provided_class(now)
    if one is None or other is None or one.__module__ == "builtins":
        return False
    return issubclass(one, other) or issubclass(other, one)


def _assigned(now: Any, name: str, holders: Sequence[str], path: str) -> Problem:
    text = (
        f"was assigned too late: {_listed(holders)} {'were' if len(holders) > 1 else 'was'} made with another "
        f"{class_name(now)} and still {_use(holders)} it. Assign a provider before its users are made, or override it "
        f"with `container.{name}.override(...)`."
    )
    return Problem(f"{path}.{name}", class_name(now), text)


def _held_by(provider: Any, named: Iterable[Any]) -> Iterator[Any]:
    """Yield the providers that a provider contains, at any depth. The parts of providers in `named` are left out."""
    stops = set(named)
    seen: set[Any] = {provider}
    waiting = list(kinds.parts(provider))
    for each in waiting:  # the list grows during the loop
        if each not in seen:
            seen.add(each)
            yield each
            if each not in stops:
                waiting += kinds.parts(each)


def _listed(labels: Sequence[str]) -> str:
    names = list(dict.fromkeys(labels))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _use(labels: Sequence[str]) -> str:
    return "uses" if len(set(labels)) == 1 else "use"
