"""Description: the exact chains of the messages of containers, as text, as JSON or as a picture."""

from collections.abc import Iterator, Sequence
from typing import Any

from mediator.cli.errors import CommandError
from mediator.cli.target import nearest
from mediator.dependency_injector.mediator_provider import mediators_of
from mediator.description import Application, Format, described


def describe(containers: Sequence[tuple[str, Any]], message: str | None, form: Format) -> str:
    """The chain of every message of some containers, or of those with this class name. Nothing is started.

    Args:
        containers: Each with the `module:name` that it was asked for by.
        message: A class name, or `None` for every message.
        form: The format.

    Raises:
        CommandError: A container has no mediator, or none has a message of that name.
        ContainerValidationError: A handler does not say what it handles.
    """
    applications = list(_applications(containers, message))
    found = [application for application in applications if application.messages]
    if message is not None and not found:
        known = {cls.__name__ for each in applications for cls in each.registry.message_types()}
        raise CommandError(f"The container handles no message {message!r}.{nearest(message, known)}")
    if form == "text" and not found:
        return "No message has a handler."
    return described(found, form)


def _applications(containers: Sequence[tuple[str, Any]], message: str | None) -> Iterator[Application]:
    names = [target.partition(":")[2] for target, _ in containers]
    for (target, container), short in zip(containers, names, strict=True):
        providers = mediators_of(container)
        if not providers:
            raise CommandError("The container has no mediator: add a MediatorProvider to it.")
        title = "" if len(containers) == 1 else short if names.count(short) == 1 else target
        for label, provider in providers:
            registry = provider.own().registry
            chosen = [cls for cls in registry.message_types() if message in (None, cls.__name__)]
            yield Application(f"{title} {label}".strip() if len(providers) > 1 else title, registry, chosen)
