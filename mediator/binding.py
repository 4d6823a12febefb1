"""Binding: the class of a handler, behavior or collaborator, its messages, and how its object is created."""

import enum
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mediator.handlers import UNIONS, fits, is_known, message_types, type_arguments
from mediator.pipeline import NotificationPipelineBehavior, PipelineBehavior, Source
from mediator.streams import StreamPipelineBehavior

_BEHAVIORS = (PipelineBehavior, NotificationPipelineBehavior, StreamPipelineBehavior)


class Fit(enum.IntEnum):
    """Whether a binding is for a message class."""

    NO = 0
    UNKNOWN = 1
    """The binding is for `Create[Student]`, for example, and the message class is `Create`, without type arguments."""
    YES = 2


@dataclass(frozen=True, slots=True)
class Binding:
    """The class of a handler, a behavior or a collaborator, and the callable that creates its object.

    Attributes:
        source: Creates the object; called whenever an object is needed.
        cls: The class of the object.
        label: The place where the class is declared, for use in texts: `container.<name>`.
        kind: The generic base class by which the object is bound: `RequestHandler`, `NotificationHandler`,
            `PipelineBehavior`...
        messages: The message classes that the binding is for; empty when `cls` declares none.
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
        default: tuple[Any, ...] = (Any,) if self.kind in _BEHAVIORS else ()
        found = message_types((arguments or default)[0]) if arguments or default else ()
        object.__setattr__(self, "messages", found)

    @property
    def families(self) -> tuple[Any, ...]:
        """The message types of the binding, such as `Create[Student]`. `Create[Any]` is given as `Create`."""
        declared = (type_arguments(self.cls, self.kind) or (None,))[0]
        members = typing.get_args(declared) if typing.get_origin(declared) in UNIONS else (declared,)
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
        """Return whether the binding, which is for `base`, is also for a subclass of `base`.

        A binding for `Create[Student]` is not for a subclass of `Create[Course]`. For an object that was created as
        `Create[Student](...)` the fit is `UNKNOWN`, because the object's class is `Create`, without type arguments.
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
        """Return whether the binding is for `base`, whatever the type arguments are."""
        return base in self.messages and not self._arguments(base)

    def bases_unknown(self, message_type: type) -> list[type]:
        """Return the message classes of the binding for which the fit is `UNKNOWN`."""
        bases = (cls for cls in self.messages if issubclass(message_type, cls))
        return [cls for cls in bases if self.fit_of(message_type, cls) is Fit.UNKNOWN]

    def vagueness(self, message_type: type, base: type) -> int:
        """Return how loosely the binding fits a message class. `base` is the class without type arguments.

        For a subclass of `Create[Student]`, a binding of `Create[Student]` has 0, `Create[Person]` 1, and `Create` 2.
        """
        families = self._arguments(base)
        return 2 if not families else int(type_arguments(message_type, base) not in families)

    def _arguments(self, base: type) -> list[tuple[Any, ...]]:
        return [typing.get_args(family) for family in self.families if typing.get_origin(family) is base]

    def distance(self, message_type: type) -> int:
        """Return the number of steps in the MRO from the message class to the nearest class of the binding."""
        order = message_type.__mro__
        return min(order.index(cls) for cls in self.messages if cls in order)


def _is_narrow(declared: Any, message: type) -> bool:
    arguments = typing.get_args(declared) if typing.get_origin(declared) is message else ()
    return any(argument is not Any and not isinstance(argument, TypeVar) for argument in arguments)
