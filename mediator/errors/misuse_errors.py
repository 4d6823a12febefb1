"""MisuseError and its subclasses, for an application that uses the library in a way that cannot work."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mediator.errors.problem import Problem, report
from mediator.errors.root import MediatorError, circle_in


@dataclass(eq=False, repr=False)
class MisuseError(MediatorError, RuntimeError):
    """The application uses the library in a way that cannot work. Change the code; trying again does not help.

    Attributes:
        subject: What is used wrongly: a message, a class or the name of a setting.
        problem: What is wrong and what to do.
    """

    subject: object
    problem: str

    def __str__(self) -> str:
        return self.problem


class ScopeError(MisuseError):
    """A scoped object was used outside its scope, or two dispatches used one scope at the same time."""


class NoUnitOfWorkError(MisuseError):
    """An operation needs its unit of work, but no unit of work is running, or only a different one is running."""


@dataclass(eq=False, repr=False)
class StaleObjectError(MisuseError):
    """An object was loaded in an earlier transaction and then changed. Writing it could overwrite newer values.

    Attributes:
        subject: The class of the object.
        reason: What has happened to the object or its row since the object was loaded.
    """

    reason: str


class DeclarationError(MisuseError):
    """A class of messages or events does not declare what it needs, or declares it wrongly."""


@dataclass(eq=False, repr=False)
class DispatchDepthError(MisuseError, RecursionError):
    """Too many messages or domain events cause each other, most likely in a circle.

    Attributes:
        limit: The `max_depth` of the mediator, or the `max_domain_events` of the unit of work.
        path: The running messages, outermost first; or the domain events. The handlers of each event recorded the
            next event in `path`.
    """

    limit: int
    path: Sequence[object]

    @property
    def cycle(self) -> Sequence[str]:
        """The names of the messages that cause each other in a circle, each once; empty when there is no circle."""
        return circle_in(self.path)


@dataclass(eq=False, repr=False)
class HandlerNotFoundError(MisuseError, LookupError):
    """A request has no handler, or its handler depends on type arguments that are unknown.

    Attributes:
        nearest: The most similar names of requests that have a handler.
    """

    nearest: Sequence[str] = ()


class GroupOrderingError(MisuseError):
    """A consumer group used a different ordering before, and its position cannot be converted to the new ordering."""


@dataclass(eq=False, repr=False)
class SchemaError(MisuseError):
    """The tables of this library in a database do not fit this version of the library.

    Attributes:
        version: The version of the tables, if the library needs a different one; `None` if tables or rows are missing.
    """

    version: int | None = None


class ContainerError(MisuseError):
    """A container was used in a way that cannot work."""


@dataclass(eq=False, repr=False)
class ContainerValidationError(MisuseError):
    """A container is wired wrongly. The text is a report of all problems."""

    problem: str = field(init=False)
    problems: Sequence[Problem]

    def __post_init__(self) -> None:
        self.problem = report(self.problems, "in the container")


@dataclass(eq=False, repr=False, init=False)
class SettingError(MisuseError, ValueError):
    """A setting has a value that cannot work. Secrets in the value are redacted.

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
