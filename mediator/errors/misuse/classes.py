"""MisuseError: the application uses the library in a way that cannot work; with the kinds that are caught apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mediator.errors.problem import Problem, report
from mediator.errors.root import MediatorError, circle_in


@dataclass(eq=False, repr=False)
class MisuseError(MediatorError, RuntimeError):
    """The application uses the library in a way that cannot work. Change the code; trying again does not help.

    Attributes:
        subject: What is used wrongly: a message, a class, the name of a setting.
        problem: What is wrong, and what to do about it.
    """

    subject: object
    problem: str

    def __str__(self) -> str:
        return self.problem


class ScopeError(MisuseError):
    """Something that lives in a scope was used where that scope is not running, or by two dispatches at a time."""


class NoUnitOfWorkError(MisuseError):
    """Something that belongs to a unit of work was done outside one, or beside the one that runs."""


@dataclass(eq=False, repr=False)
class StaleObjectError(MisuseError):
    """An object that an earlier transaction loaded was changed, and cannot be written as it is.

    Attributes:
        subject: The class of the object.
        reason: What has happened to it since.
    """

    reason: str


class DeclarationError(MisuseError):
    """A class of messages or events does not declare what it needs, or declares it wrongly."""


@dataclass(eq=False, repr=False)
class DispatchDepthError(MisuseError, RecursionError):
    """Messages or domain events follow from each other too deeply or too often, most likely in a circle.

    Attributes:
        limit: The `max_depth` of the mediator, or the `max_domain_events` of the unit of work.
        path: The messages that run, outermost first; of domain events, each was recorded by the handlers of the one
            before it.
    """

    limit: int
    path: Sequence[object]

    @property
    def cycle(self) -> Sequence[str]:
        """The names of the messages that cause each other, once each; empty when there is no circle."""
        return circle_in(self.path)


class NestedTransactionError(MisuseError):
    """An inner unit of work would wait for a lock of an enclosing one, which waits for it."""


@dataclass(eq=False, repr=False)
class HandlerNotFoundError(MisuseError, LookupError):
    """A request was sent that no handler handles, or of which it cannot be known which one does.

    Attributes:
        nearest: Names of requests like its own that have a handler.
    """

    nearest: Sequence[str] = ()


class GroupOrderingError(MisuseError):
    """A group that consumed with one ordering is to consume with the other one, and would begin again from its start."""


@dataclass(eq=False, repr=False)
class SchemaError(MisuseError):
    """The tables of this library in a database do not fit this version of the library.

    Attributes:
        version: The version of the tables, where it is older or newer; `None` where tables or rows are missing.
    """

    version: int | None = None


class ContainerError(MisuseError):
    """A container was used in a way that cannot work."""


@dataclass(eq=False, repr=False)
class ContainerValidationError(MisuseError):
    """The wiring of a container is faulty. The text is the whole report, every problem in it."""

    problem: str = field(init=False)
    problems: Sequence[Problem]

    def __post_init__(self) -> None:
        self.problem = report(self.problems, "in the container")


@dataclass(eq=False, repr=False, init=False)
class SettingError(MisuseError, ValueError):
    """A setting of an adapter has a value that cannot work. Secrets in the value are redacted.

    Attributes:
        subject: The name of the setting.
        value: The value.
    """

    value: object

    def __init__(self, subject: str, value: object, problem: str) -> None:
        super().__init__(subject, problem)
        self.value = value

    def __str__(self) -> str:
        return f"The setting {self.subject}={self.value!r} cannot work: {self.problem}"
