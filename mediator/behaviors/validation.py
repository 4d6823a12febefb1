"""ValidationBehavior: refuses a message or stream that is not valid, with everything that is wrong with it in one error."""

import inspect
import re
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, ClassVar, Generic

from mediator.companions import BoundCompanion, Companion, CompanionBehavior, StreamCompanionBehavior, resolve
from mediator.errors import MediatorError, ValidationFailedError, ValidationFailure
from mediator.pipeline import CallNext, Message_contra
from mediator.streams import StreamNext

_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")


class Validator(Companion, Generic[Message_contra]):
    """Checks one kind of message, and those derived from it, where the list has a `ValidationBehavior`.

    Requests of streams are checked where it has a `StreamValidationBehavior`.

    A message may have any number of validators; they are found by their type, as handlers are.
    """

    @abstractmethod
    async def validate(self, message: Message_contra, /) -> Iterable[ValidationFailure]:
        """Return what is wrong with the message; nothing when it is valid. A `ValueError` counts as one failure."""


class _Validation:
    """What both behaviors below have in common: where they apply, and the check."""

    works_with: ClassVar[tuple[type, ...]] = (Validator,)
    role: ClassVar[str | None] = "validation"
    belongs_inside: ClassVar[Mapping[str, str]] = {
        "authorization": "its failures would tell anyone what only some may know"
    }

    def __init__(self, *, errors: type[Exception] | tuple[type[Exception], ...] = ValueError) -> None:
        self._errors = errors

    @classmethod
    def applies_to(cls, message_type: type, companions: Sequence[BoundCompanion], /) -> bool:
        """Whether the message class has a validator or a method `validate`."""
        return bool(companions) or checks_itself(message_type)

    async def _check(self, companions: Sequence[BoundCompanion], message: Any) -> None:
        failures: list[ValidationFailure] = []
        cls: Any = message.__class__
        if checks_itself(cls):
            await self._collect(failures, cls.__name__, message.validate)
        for companion in companions:
            validator = await resolve(companion)
            await self._collect(failures, companion.cls.__name__, partial(validator.validate, message))
        if failures:
            raise ValidationFailedError(message, tuple(failures))

    async def _collect(self, failures: list[ValidationFailure], name: str, check: Callable[[], Any]) -> None:
        try:
            found: Any = check()
            if hasattr(found, "__await__"):
                found = await found
            failures.extend(replace(failure, validator=name) for failure in found or ())  # up to where it raises
        except ValidationFailedError as error:  # of a message that the validator has sent on
            failures.extend(error.failures)
        except MediatorError:  # some are ValueErrors too, and none is about the message
            raise
        except self._errors as error:  # collected: all that is wrong is told together
            failures.extend(ValidationFailure(field, text, name) for field, text in _entries(error))


class ValidationBehavior(_Validation, CompanionBehavior):
    """Refuses invalid messages: no `Validator` of theirs, and no `validate()` of their own, may find anything.

    What a message library checks (attrs, pydantic) it checks when the message is made, so such a message is never sent;
    this is for what the library does not check then: msgspec checks what it decodes, a dataclass checks nothing, and some
    checks need a database. A message class with a method `validate(self)` is asked first. It may return or yield
    `ValidationFailure`s, or raise the error of its library:

        class EnrollStudent(msgspec.Struct, Command[StudentId], frozen=True):
            name: Annotated[str, Meta(min_length=1)]

            def validate(self) -> None:
                msgspec.convert(msgspec.to_builtins(self), EnrollStudent)

    All validators run, one after the other, and what they find is raised together. Other errors of theirs are raised as
    they are. Place the behavior after authorization, whose refusals tell less, and before the transaction.

    Args:
        errors: What counts as a failure when a validator or `validate()` raises it. `ValueError` covers the validation
            errors of pydantic, msgspec and most of attrs. When such an error has a method `errors()`, as that of pydantic,
            each of its entries is one failure.
    """

    async def handle_with(self, companions: Sequence[BoundCompanion], message: Any, call_next: CallNext[Any], /) -> Any:
        """Check, and go on.

        Raises:
            ValidationFailedError: Something is wrong with the message.
        """
        await self._check(companions, message)
        return await call_next()


class StreamValidationBehavior(_Validation, StreamCompanionBehavior):
    """Refuses an invalid request of a stream, at the first step of that: what `ValidationBehavior` is to messages.

    Args:
        errors: As those of `ValidationBehavior`.
    """

    async def handle_with(
        self, companions: Sequence[BoundCompanion], request: Any, call_next: StreamNext[Any], /
    ) -> AsyncIterator[Any]:
        """Check, and pass the items on.

        Raises:
            ValidationFailedError: Something is wrong with the request.
        """
        await self._check(companions, request)
        async for item in call_next():
            yield item


@lru_cache(maxsize=1024)
def checks_itself(message_type: type) -> bool:
    """Whether a message class has a method `validate`; the class method of that name in pydantic is another matter."""
    return inspect.isfunction(inspect.getattr_static(message_type, "validate", None))


def _entries(error: Exception) -> list[tuple[str, str]]:
    """The fields and texts of a library's error, and not what `str(error)` of some adds to them."""
    listing: Any = getattr(error, "errors", None)
    entries: Any = listing() if callable(listing) else ()  # pydantic: `[{"loc": ("name",), "msg": "...", ...}]`
    found = [(".".join(map(str, each["loc"])), str(each["msg"])) for each in entries if {"loc", "msg"} <= set(each)]
    said: Any = error.args[0] if error.args else type(error).__name__  # attrs has objects beside the text
    return found or [_entry(said if isinstance(said, str) else str(error))]


def _entry(text: str) -> tuple[str, str]:
    """The field and the text, where the text says where: msgspec's end in "- at `$.name`"."""
    place = _PLACE.search(text)
    return (place[1], text[: place.start()]) if place else ("", text)
