"""Binding: a handler, a behavior or a collaborator, the messages it is for, and the source that makes it."""

import enum
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mediator.handlers import UNIONS, fits, is_known, message_types, type_arguments
from mediator.pipeline import NotificationPipelineBehavior, PipelineBehavior, Source
from mediator.streams import StreamPipelineBehavior

_BEHAVIORS = (PipelineBehavior, NotificationPipelineBehavior, StreamPipelineBehavior)


class Fit(enum.IntEnum):
    """Tells whether a binding is for a message class."""

    NO = 0
    UNKNOWN = 1
    """The binding is for certain type arguments, and the type arguments of the message class cannot be known."""
    YES = 2


@dataclass(frozen=True, slots=True)
class Binding:
    """A handler, a behavior or a collaborator, and the source that makes it.

    Attributes:
        source: Returns the object; called whenever one is needed.
        cls: The class of the object.
        label: Where it is declared, as texts show it: `container.<name>`.
        kind: The generic base through which it is bound: `RequestHandler`, `NotificationHandler`, `PipelineBehavior`...
        messages: The message classes it is for; empty when the class does not declare them.
        collaborators: The collaborators of a behavior in a compiled pipeline; empty otherwise.
    """

    source: Source
    cls: type
    label: str
    kind: type
    messages: tuple[type, ...] = field(init=False)
    collaborators: "tuple[Binding, ...]" = ()

    def __post_init__(self) -> None:
        arguments = type_arguments(self.cls, self.kind) or ()
        unsaid: tuple[Any, ...] = (Any,) if self.kind in _BEHAVIORS else ()
        found = message_types((arguments or unsaid)[0]) if arguments or unsaid else ()
        object.__setattr__(self, "messages", found)

    @property
    def families(self) -> tuple[Any, ...]:
        """The message types it is for, with type arguments if they narrow it: `Create[Student]`, not `Create[Any]`."""
        said = (type_arguments(self.cls, self.kind) or (None,))[0]
        members = typing.get_args(said) if typing.get_origin(said) in UNIONS else (said,)
        narrow = {message: [each for each in members if _is_narrow(each, message)] for message in self.messages}
        found = [(message,) if message in members else each or (message,) for message, each in narrow.items()]
        return tuple(dict.fromkeys(each for families in found for each in families))

    def takes(self, message_type: type) -> bool:
        """Return whether the binding is, or may be, for messages of this class."""
        return self.fit(message_type) is not Fit.NO

    def fit(self, message_type: type) -> "Fit":
        """Return whether the binding is for messages of this class, as far as the type arguments are known."""
        fits_of = [self.fit_of(message_type, cls) for cls in self.messages if issubclass(message_type, cls)]
        return max(fits_of, default=Fit.NO)

    def fit_of(self, message_type: type, base: type) -> "Fit":
        """Return whether the binding, which is for `base`, is for a class derived from it.

        A binding for `Create[Student]` is not for a class derived from `Create[Course]`. The fit is `UNKNOWN` for
        `Create[Student](...)`, which makes an object of the class `Create`: its type arguments are lost.
        """
        families = self._arguments(base)
        if not families:
            return Fit.YES
        given = (type_arguments(message_type, base) or ()) if message_type is not base else ()
        fitting = [wanted for wanted in families if all(map(fits, given, wanted))]
        if any(len(given) == len(wanted) and all(map(is_known, given, wanted)) for wanted in fitting):
            return Fit.YES
        return Fit.UNKNOWN if fitting else Fit.NO

    def is_open_for(self, base: type) -> bool:
        """Return whether the binding is for `base` with any type arguments."""
        return base in self.messages and not self._arguments(base)

    def bases_unknown(self, message_type: type) -> list[type]:
        """Return the bases that it is for with certain type arguments, which the message class does not determine."""
        bases = (cls for cls in self.messages if issubclass(message_type, cls))
        return [cls for cls in bases if self.fit_of(message_type, cls) is Fit.UNKNOWN]

    def vagueness(self, message_type: type, base: type) -> int:
        """Rank how loosely the binding fits the type arguments of the message class for `base`.

        Return 0 for the same type arguments, 1 for other ones, and 2 when the binding names none.
        """
        families = self._arguments(base)
        return 2 if not families else int(type_arguments(message_type, base) not in families)

    def _arguments(self, base: type) -> list[tuple[Any, ...]]:
        return [typing.get_args(family) for family in self.families if typing.get_origin(family) is base]

    def distance(self, message_type: type) -> int:
        """Return the distance to the nearest class it is for: 0 for the message class itself, more for its bases."""
        order = message_type.__mro__
        return min(order.index(cls) for cls in self.messages if cls in order)


def _is_narrow(said: Any, message: type) -> bool:
    arguments = typing.get_args(said) if typing.get_origin(said) is message else ()
    return any(argument is not Any and not isinstance(argument, TypeVar) for argument in arguments)
