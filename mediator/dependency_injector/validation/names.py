"""Rules for names: events carry the name of one application, and commands and exposed requests have unique names."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from mediator.dependency_injector.catalog import Catalog, instances_of
from mediator.dependency_injector.declared import given_argument, path_of
from mediator.distributed.behaviors import DistributedUnitOfWorkBehavior
from mediator.distributed.idempotency import IdempotencyBehavior, request_name
from mediator.distributed.outbox import OutboxRelay
from mediator.distributed.requests import RequestResponder, contract_of
from mediator.errors import DeclarationError, Problem
from mediator.handlers import RequestHandler


def find_application_faults(container: Any, catalogs: list[Catalog]) -> Iterator[Problem]:
    """Yield the faults of relays and behaviors that publish events under two application names, or without a name."""
    for label, provider, _ in instances_of(container, OutboxRelay):
        outbox, publisher = (
            given_argument(given_argument(provider, name), "application") for name in ("outbox", "publisher")
        )
        if isinstance(outbox, str) and isinstance(publisher, str) and outbox != publisher:
            text = (
                f"publishes events as {publisher!r}, but its outbox stores them as {outbox!r}. Give the name of the "
                "application to the outbox only."
            )
            yield Problem(label, "OutboxRelay", text)
        if outbox is None and publisher is None:
            text = (
                "publishes events without the name of an application. Give the name to the outbox: "
                "`SqlAlchemyOutbox(engine, application=...)`."
            )
            yield Problem(label, "OutboxRelay", text)
    for behavior in (each for catalog in catalogs for each in catalog.behaviors):
        name = behavior.cls.__name__
        if issubclass(behavior.cls, DistributedUnitOfWorkBehavior):
            delivery, publisher = (given_argument(behavior.source, each) for each in ("delivery", "publisher"))
            if delivery == "direct" and given_argument(publisher, "application") is None:
                text = "delivers events without the name of an application. Give the publisher `application`."
                yield Problem(behavior.label, name, text)


def find_name_faults(catalog: Catalog) -> Iterator[Problem]:
    """Yield a problem for each command with the name of another command, if an `IdempotencyBehavior` is for both commands.

    Responses are stored under the names of commands, so a command could get the response of another command.
    """
    behaviors = [each for each in catalog.behaviors if issubclass(each.cls, IdempotencyBehavior)]
    names: dict[str, type] = {}
    for handler in catalog.handlers:
        for message in handler.messages:
            if not any(behavior.takes(message) for behavior in behaviors):
                continue
            name = request_name(message)
            other = names.setdefault(name, message)
            if path_of(other) != path_of(message):
                text = (
                    f"handles {path_of(message)}, which has the same name as {path_of(other)}: {name!r}. Both can have "
                    'idempotency keys. Declare `request_type: ClassVar[str] = "<domain>.<name>"` in one of them.'
                )
                yield Problem(handler.label, handler.cls.__name__, text)


def find_contract_faults(container: Any, catalogs: Iterable[Catalog]) -> Iterator[Problem]:
    """Yield a problem for each request that is exposed without a handler, or under a missing or repeated name."""
    handled = [b for catalog in catalogs for b in catalog.handlers if b.kind is RequestHandler]
    for label, provider, cls in instances_of(container, RequestResponder):
        names: dict[str, Any] = {}
        exposed = given_argument(provider, "exposes")  # if this is a provider, its classes cannot be read
        for request_class in cast("Sequence[Any]", exposed) if isinstance(exposed, list | tuple) else ():
            subject = getattr(request_class, "__name__", cls.__name__)
            try:
                name = contract_of(request_class).name
            except DeclarationError as error:
                yield Problem(label, subject, str(error))
                continue
            if names.setdefault(name, request_class) is not request_class:
                yield Problem(label, subject, f"is exposed as {name}, and so is {names[name].__name__}.")
            if not any(binding.takes(request_class) for binding in handled):
                text = f"is exposed as {name}, but the container has no handler for it: provide its RequestHandler."
                yield Problem(label, subject, text)
