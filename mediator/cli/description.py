"""Description: the exact chains of a container's messages, as text."""

from typing import Any

from mediator.cli.errors import CommandError
from mediator.cli.target import nearest
from mediator.dependency_injector.mediator_provider import mediators_of
from mediator.registry import Registry


def describe(container: Any, message: str | None) -> str:
    """The chain of every message of a container, or of the one with this class name. Nothing is started.

    Raises:
        CommandError: The container has no mediator, or no message of that name.
        ContainerValidationError: A handler does not say what it handles.
    """
    registries = [(label, provider.own().registry) for label, provider in mediators_of(container)]
    if not registries:
        raise CommandError("The container has no mediator: add a MediatorProvider to it.")
    found = [(label, text) for label, registry in registries if (text := _describe(registry, message))]
    if message is not None and not found:
        known = {cls.__name__ for _, registry in registries for cls in registry.message_types()}
        raise CommandError(f"The container handles no message {message!r}.{nearest(message, known)}")
    if len(registries) == 1:
        return found[0][1] if found else "No message has a handler."
    return "\n\n".join(f"{label}\n\n{text}" for label, text in found)


def _describe(registry: Registry, message: str | None) -> str:
    chosen = [cls for cls in registry.message_types() if message in (None, cls.__name__)]
    return "\n\n".join(registry.describe(cls) for cls in chosen)
