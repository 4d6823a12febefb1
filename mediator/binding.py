"""Binding: a handler, a behavior or a companion, what it is for, and where it comes from."""

import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mediator.handlers import UNIONS, fits, message_types, type_arguments
from mediator.pipeline import NotificationPipelineBehavior, PipelineBehavior, Source
from mediator.streams import StreamPipelineBehavior

_BEHAVIORS = (PipelineBehavior, NotificationPipelineBehavior, StreamPipelineBehavior)


@dataclass(frozen=True, slots=True)
class Binding:
    """A handler or a behavior, and where it comes from.

    Attributes:
        source: Gives the object; called whenever one is needed.
        cls: Its class.
        label: Where it is declared, for texts: `container.<name>`.
        kind: The generic base through which it is bound: `RequestHandler`, `NotificationHandler`, `PipelineBehavior`...
        messages: The message classes it is for; empty when the class does not say.
        companions: Of a behavior in a compiled pipeline: what it works with there.
    """

    source: Source
    cls: type
    label: str
    kind: type
    messages: tuple[type, ...] = field(init=False)
    companions: "tuple[Binding, ...]" = ()

    def __post_init__(self) -> None:
        arguments = type_arguments(self.cls, self.kind) or ()
        unsaid: tuple[Any, ...] = (Any,) if self.kind in _BEHAVIORS else ()
        found = message_types((arguments or unsaid)[0]) if arguments or unsaid else ()
        object.__setattr__(self, "messages", found)

    @property
    def families(self) -> tuple[Any, ...]:
        """What it is for, with type arguments where they make a difference: `Create[Student]`, but not `Create[Any]`."""
        said = (type_arguments(self.cls, self.kind) or (None,))[0]
        members = typing.get_args(said) if typing.get_origin(said) in UNIONS else (said,)
        narrow = {message: [each for each in members if _is_narrow(each, message)] for message in self.messages}
        found = [(message,) if message in members else each or (message,) for message, each in narrow.items()]
        return tuple(dict.fromkeys(each for families in found for each in families))

    def takes(self, message_type: type) -> bool:
        """Whether messages of this class (or of one it derives from) are meant."""
        return any(issubclass(message_type, cls) and self.serves(message_type, cls) for cls in self.messages)

    def serves(self, message_type: type, base: type) -> bool:
        """Whether what is for `base` is for a class derived from it: `Create[Student]` is not for `Create[Course]`."""
        families = self._arguments(base)
        given = type_arguments(message_type, base) or () if message_type is not base else ()
        return not families or any(all(map(fits, given, wanted)) for wanted in families)

    def vagueness(self, message_type: type, base: type) -> int:
        """How little it says of the type arguments of `base`: 0 when they are those of the message class."""
        families = self._arguments(base)
        return 2 if not families else int(type_arguments(message_type, base) not in families)

    def _arguments(self, base: type) -> list[tuple[Any, ...]]:
        return [typing.get_args(family) for family in self.families if typing.get_origin(family) is base]

    def distance(self, message_type: type) -> int:
        """How specific the binding is for a message class: 0 for the class itself, more for its bases."""
        order = message_type.__mro__
        return min(order.index(cls) for cls in self.messages if cls in order)


def _is_narrow(said: Any, message: type) -> bool:
    arguments = typing.get_args(said) if typing.get_origin(said) is message else ()
    return any(argument is not Any and not isinstance(argument, TypeVar) for argument in arguments)
