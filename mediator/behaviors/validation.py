"""ValidationBehavior: refuses an invalid message or stream, with all of its failures in one error."""

import inspect
import re
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, ClassVar, Generic

from mediator.binding import Binding
from mediator.collaborators import Collaborator, CollaboratorBehavior, StreamCollaboratorBehavior, resolve
from mediator.errors import MediatorError, ValidationFailedError, ValidationFailure
from mediator.pipeline import CallNext, Message_contra
from mediator.streams import StreamNext

_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")


class Validator(Collaborator, Generic[Message_contra]):
    """Checks the messages of one class and its subclasses, if the list of behaviors has a `ValidationBehavior`.

    Stream requests are checked if the list has a `StreamValidationBehavior`. A message may have any number of
    validators. Validators are found by their type argument, as handlers are.
    """

    decides = True

    @abstractmethod
    async def validate(self, message: Message_contra, /) -> Iterable[ValidationFailure]:
        """Return the failures of the message, none if it is valid. A raised `ValueError` counts as one failure."""


class _Validation:
    """The common base of both behaviors below: the messages they apply to, and the check."""

    works_with: ClassVar[tuple[type, ...]] = (Validator,)
    role: ClassVar[str | None] = "validation"
    belongs_inside: ClassVar[Mapping[str, str]] = {
        "authorization": "otherwise its failures would disclose data to unauthorized callers"
    }

    def __init__(self, *, errors: type[Exception] | tuple[type[Exception], ...] = ValueError) -> None:
        self._errors = errors

    @classmethod
    def applies_to(cls, message_type: type, collaborators: Sequence[Binding], /) -> bool:
        """Return whether the message class has a validator or a method `validate`."""
        return bool(collaborators) or checks_itself(message_type)

    async def _check(self, collaborators: Sequence[Binding], message: Any) -> None:
        failures: list[ValidationFailure] = []
        cls: Any = message.__class__
        if checks_itself(cls):
            await self._collect(failures, cls.__name__, message.validate)
        for collaborator in collaborators:
            validator = await resolve(collaborator)
            await self._collect(failures, collaborator.cls.__name__, partial(validator.validate, message))
        if failures:
            raise ValidationFailedError(message, tuple(failures))

    async def _collect(self, failures: list[ValidationFailure], name: str, check: Callable[[], Any]) -> None:
        try:
            found: Any = check()
            if hasattr(found, "__await__"):
                found = await found
            # `extend` keeps the failures that a generator yields before it raises an error.
            failures.extend(replace(failure, validator=name) for failure in found or ())
        except ValidationFailedError as error:  # raised for a message that the validator sent
            failures.extend(error.failures)
        except MediatorError:  # some are `ValueError`s, but none of them means that the message is invalid
            raise
        except self._errors as error:  # collected: all failures are raised together
            failures.extend(ValidationFailure(field, text, name) for field, text in _entries(error))


class ValidationBehavior(_Validation, CollaboratorBehavior):
    """Raises a `ValidationFailedError` when a `Validator` or the method `validate()` of the message finds a failure.

    Libraries such as attrs and pydantic check a message when it is created. This behavior is for all other checks:
    msgspec only checks messages that it decodes, a dataclass checks nothing, and some checks need a database.

    A method `validate(self)` of the message class is called before the validators. The method may return or yield
    `ValidationFailure`s, or raise the error of a validation library:

        class EnrollStudent(msgspec.Struct, Command[StudentId], frozen=True):
            name: Annotated[str, Meta(min_length=1)]

            def validate(self) -> None:
                msgspec.convert(msgspec.to_builtins(self), EnrollStudent)

    All validators run, one after the other, and their failures are raised together. Other errors of a validator are
    raised unchanged. Place this behavior after authorization and before the transaction behavior. Before authorization,
    the failures would disclose data to unauthorized callers.

    Args:
        errors: The errors that count as failures when a validator or `validate()` raises them. `ValueError` covers the
            validation errors of pydantic, msgspec and most of attrs. If the error has a method `errors()`, as the error
            of pydantic has, each entry in the result of `errors()` is one failure.
    """

    async def handle_with(self, collaborators: Sequence[Binding], message: Any, call_next: CallNext[Any], /) -> Any:
        await self._check(collaborators, message)
        return await call_next()


class StreamValidationBehavior(_Validation, StreamCollaboratorBehavior):
    """Refuses an invalid stream request when its first item is requested. `ValidationBehavior` refuses other messages."""

    async def handle_with(
        self, collaborators: Sequence[Binding], request: Any, call_next: StreamNext[Any], /
    ) -> AsyncIterator[Any]:
        await self._check(collaborators, request)
        async for item in call_next():
            yield item


@lru_cache(maxsize=1024)
def checks_itself(message_type: type) -> bool:
    """Return whether a message class has a method `validate`. Pydantic's class method `validate` does not count."""
    return inspect.isfunction(inspect.getattr_static(message_type, "validate", None))


def _entries(error: Exception) -> list[tuple[str, str]]:
    """Return the field and text of each failure in a library's error, without the values that `str(error)` may show."""
    listing: Any = getattr(error, "errors", None)
    entries: Any = listing() if callable(listing) else ()  # pydantic: `[{"loc": ("name",), "msg": "...", ...}]`
    found = [(".".join(map(str, each["loc"])), str(each["msg"])) for each in entries if {"loc", "msg"} <= set(each)]
    said: Any = error.args[0] if error.args else type(error).__name__  # attrs puts further objects after the text
    return found or [_entry(said if isinstance(said, str) else str(error))]


def _entry(text: str) -> tuple[str, str]:
    """Return the field and the text of a failure. A text of msgspec ends with its field: "- at `$.name`"."""
    place = _PLACE.search(text)
    return (place[1], text[: place.start()]) if place else ("", text)
