"""Rules for remote requests: what a responder exposes has a name of its own and a handler here."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.catalog import Catalog, instances_of
from mediator.dependency_injector.event_rules import given_argument
from mediator.distributed.requests import exposure_of
from mediator.distributed.responder import RequestResponder
from mediator.errors import Problem, RequestDeclarationError
from mediator.handlers import RequestHandler


def find_exposure_faults(container: Any, catalogs: Iterable[Catalog]) -> Iterator[Problem]:
    """Classes that a `RequestResponder` cannot expose: without a name, with that of another, or without a handler."""
    handled = [b for catalog in catalogs for b in catalog.handlers if b.kind is RequestHandler]
    for label, provider, cls in instances_of(container, RequestResponder):
        names: dict[str, Any] = {}
        for request_class in _exposed(provider):
            subject = getattr(request_class, "__name__", cls.__name__)
            try:
                name = exposure_of(request_class).name
            except RequestDeclarationError as error:
                yield Problem(label, subject, str(error))
                continue
            if names.setdefault(name, request_class) is not request_class:
                yield Problem(label, subject, f"is exposed as {name}, and so is {names[name].__name__}.")
            if not any(binding.takes(request_class) for binding in handled):
                text = f"is exposed as {name} and has no handler here: add a provider of a RequestHandler of it."
                yield Problem(label, subject, text)


def _exposed(provider: Any) -> Sequence[Any]:
    """The classes that the declaration of a responder names, if it names them itself."""
    effective = kinds.effective(provider)
    given = given_argument(effective, "exposes") if isinstance(effective, kinds.CALLING) else None
    return cast("Sequence[Any]", given) if isinstance(given, list | tuple) else ()
