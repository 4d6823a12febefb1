"""Override: other providers in a container for a while, with everything that depends on them."""

import difflib
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import named_providers
from mediator.dependency_injector.declared import check_instance
from mediator.dependency_injector.graph import Graph
from mediator.dependency_injector.mediator_provider import mediators_of
from mediator.dependency_injector.resources import forget_modes
from mediator.errors import ContainerError, ProviderNotFoundError

C = TypeVar("C")


@contextmanager
def override(container: C, **replacements: Any) -> Generator[C]:
    """Replace providers by other providers, or by objects, until the end of the block.

        with override(container, students=FakeStudents(), billing__gateway=providers.Factory(FakeGateway)):
            ...

    Two underscores lead into a nested container, and to a class that a scan has found (`handlers__EnrollStudentHandler`).
    It does what `provider.override()` leaves undone: singletons that were
    made with what is replaced are made anew, here and after the block; what was synchronous may become asynchronous; and
    mediators see another list of behaviors at once. A resource that is put in the place of something is started by
    `lifespan` like any other, so do that before it.

    Raises:
        ProviderNotFoundError: The container has no provider of that name; nothing is replaced.
        ContainerError: It is a class, or a started resource uses what would be replaced: override before `lifespan`.
    """
    check_instance(container)
    targets = _targets(container, replacements)
    dependents = Graph(container).dependents(targets) - set(targets)
    for provider in dependents:
        if isinstance(provider, kinds.RESOURCES) and provider.last_overriding is None and provider.initialized:
            raise ContainerError(
                container,
                f"{', '.join(replacements)} cannot be replaced now: a started resource uses it. Override first, then "
                "enter the lifespan.",
            )
    try:
        with ExitStack() as overridden:
            for target, value in zip(targets, replacements.values(), strict=True):
                overridden.enter_context(target.override(value))
            _refresh(container, dependents)
            yield container
    finally:
        _refresh(container, dependents)


def _targets(container: Any, replacements: dict[str, Any]) -> list[Any]:
    named = {_path(label): provider for label, provider in named_providers(container)}
    targets: list[Any] = []
    for name in replacements:
        path = name if name in named else name.replace("__", ".")
        if path not in named:
            nearest = difflib.get_close_matches(path, named, n=1)
            raise ProviderNotFoundError(name, [each.replace(".", "__") for each in nearest])
        targets.append(named[path])
    return targets


def _path(label: str) -> str:
    """`container.handlers[EnrollStudentHandler]` as `handlers.EnrollStudentHandler`."""
    return label.partition(".")[2].replace("[", ".").removesuffix("]")


def _refresh(container: Any, dependents: set[Any]) -> None:
    for provider in dependents:
        if isinstance(provider, kinds.SINGLETONS):
            provider.reset()
    forget_modes(container)
    for _, mediator in mediators_of(container):
        mediator.own()
