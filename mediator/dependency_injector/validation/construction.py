"""Construction: checks whether providers can make their objects, judging by signatures and annotations."""

import inspect
from collections.abc import Iterator
from typing import Any

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.declared import class_fits, hints_of, provided_class, takes_class
from mediator.dependency_injector.graph import Graph, class_name
from mediator.dependency_injector.mediator_provider import MediatorProvider
from mediator.dependency_injector.scan import VARIADIC, HandlerScan
from mediator.errors import Problem
from mediator.handlers import spelled

_PROVIDED_HERE = (MediatorProvider, HandlerScan)
"""These classes derive from `Dependency` only to get their container. They make their objects themselves."""


def find_unbuildable(graph: Graph, used: set[Any]) -> Iterator[Problem]:
    """Yield the faults of providers that cannot make their objects.

    The faults are missing and extra arguments, abstract classes, wrong classes and dependencies without a provider. A
    missing argument is a fault only for the providers in `used`, which the library calls without arguments.
    """
    for provider in graph.calls:
        if provider.last_overriding is not None or isinstance(provider, _PROVIDED_HERE):
            continue
        if isinstance(provider, kinds.DEPENDENCIES):
            yield from _undefined(graph, provider)
        elif isinstance(provider, kinds.CALLING):
            for text in _faults(graph, provider, called=provider in used):
                yield Problem(graph.labels[provider], class_name(provider), text)
    for provider in graph.calls:
        if isinstance(provider, kinds.DEPENDENCIES) and not isinstance(provider, _PROVIDED_HERE):
            yield from _misfilled(graph, provider)


def _undefined(graph: Graph, dependency: Any) -> Iterator[Problem]:
    if dependency.default is None:
        text = (
            f"has no provider of {dependency.instance_of.__name__}. Pass a provider where the container is made, or "
            "override this dependency. If a derived container declares the provider, write `@rewired` above that "
            "container: otherwise, the providers of the base class do not use it."
        )
        yield Problem(graph.labels[dependency], "Dependency", text)


def _misfilled(graph: Graph, dependency: Any) -> Iterator[Problem]:
    target = kinds.effective(dependency)
    cls = provided_class(target) if target is not dependency else None
    if cls is not None and not class_fits(cls, dependency.instance_of):
        text = f"must be a {dependency.instance_of.__name__}, but is provided with a {cls.__name__}."
        yield Problem(graph.labels[dependency], "Dependency", text)


def _faults(graph: Graph, provider: Any, *, called: bool) -> Iterator[str]:
    provides = provider.provides
    if provides is None or isinstance(provider, kinds.ABSTRACT):
        if called:
            yield "is abstract: override it with a provider of a class that can be made."
    elif inspect.isabstract(provides):
        missing = ", ".join(sorted(provides.__abstractmethods__))
        yield f"is abstract: it does not implement {missing}."
    elif not kinds.is_provider(provides) and callable(provides):
        yield from _call_faults(graph, provider, called=called)


def _call_faults(graph: Graph, provider: Any, *, called: bool) -> Iterator[str]:
    provides = provider.provides
    try:
        signature = inspect.signature(provides)
    except (TypeError, ValueError):  # a class in C has no signature
        return
    bind = signature.bind if called else signature.bind_partial
    try:
        bound = bind(*provider.args, **provider.kwargs)
    except TypeError as error:
        name = getattr(provides, "__qualname__", type(provides).__qualname__)
        yield f"cannot be called as it is declared: {error}. Its signature is {name}{_shown(signature)}."
        return
    hints = hints_of(provides)
    for name, value in bound.arguments.items():
        if name in hints and signature.parameters[name].kind not in VARIADIC:
            yield from _argument_faults(graph, name, value, hints[name])


def _argument_faults(graph: Graph, name: str, value: Any, wanted: Any) -> Iterator[str]:
    if isinstance(value, type):
        if not takes_class(wanted):
            yield f"gets the class {value.__name__} itself as {name!r}, not a provider of it."
    elif kinds.is_provider(value):
        cls = _declared_class(value)
        if cls is not None and not class_fits(cls, wanted):
            yield f"needs a {spelled(wanted)} as {name!r}, but {graph.labels[value]} provides a {cls.__name__}."


def _declared_class(provider: Any) -> type | None:
    """Return the declared class of a provider, even if a test overrides the provider with a fake of a different class."""
    if not isinstance(provider, kinds.DEPENDENCIES) or isinstance(provider, _PROVIDED_HERE):
        return provided_class(provider)
    target = kinds.effective(provider)
    return provided_class(provider if isinstance(target, kinds.DEPENDENCIES) else target)


def _shown(signature: inspect.Signature) -> str:
    """Return a signature as text without default values, since a default value may be a secret."""
    parameters = [
        each.replace(default=...) if each.default is not each.empty else each for each in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))
