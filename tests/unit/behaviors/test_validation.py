"""ValidationBehavior: validators, and message classes of any library that validate themselves."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediator import Command, Notification, Query, Request, ValidationBehavior, ValidationFailure, Validator
from mediator.errors import SettingError, ValidationFailedError
from tests.unit.samples import CountStudents, EnrollStudent, StudentEnrolled, answer_name
from tests.unit.wiring import bind, handles, listens, wire


def finds(message: Any, *failures: tuple[str, str]) -> Any:
    class Finds(Validator[message]):
        async def validate(self, _message):
            return [ValidationFailure(field, text) for field, text in failures]

    return Finds()


def never() -> Any:
    raise AssertionError("built")


def refusing(*collaborators: Any, message: Any = EnrollStudent, **options: Any) -> Any:
    handler = bind(handles(message, answer_name), never)
    return wire(handler, behaviors=[ValidationBehavior(**options)], collaborators=collaborators)


async def refusal(mediator: Any, message: Any) -> ValidationFailedError:
    with pytest.raises(ValidationFailedError) as caught:
        await mediator.send(message)
    return caught.value


async def test_a_valid_message_is_handled():
    mediator = wire(
        handles(EnrollStudent, answer_name), behaviors=[ValidationBehavior], collaborators=[finds(EnrollStudent)]
    )
    assert await mediator.send(EnrollStudent("Ada")) == "Ada"


async def test_one_error_has_all_failures_of_all_validators_and_the_handler_is_never_built():
    class NameIsGiven(Validator[EnrollStudent]):
        async def validate(self, command: EnrollStudent):
            return [ValidationFailure("name", "is empty")] if not command.name else []

    class SchoolIsOpen(Validator[Request[Any]]):
        async def validate(self, _request: Request[Any]):
            return (
                ValidationFailure(field, text) for field, text in [("", "the school is closed"), ("name", "is odd")]
            )

    message = EnrollStudent("")
    error = await refusal(refusing(NameIsGiven, finds(CountStudents, ("", "never")), SchoolIsOpen), message)
    assert error.message is message
    assert error.failures == (
        ValidationFailure("name", "is empty", "NameIsGiven"),
        ValidationFailure("", "the school is closed", "SchoolIsOpen"),
        ValidationFailure("name", "is odd", "SchoolIsOpen"),
    )
    assert error.by_field == {"name": ["is empty", "is odd"], "": ["the school is closed"]}
    assert error.by_validator == {"NameIsGiven": ["is empty"], "SchoolIsOpen": ["the school is closed", "is odd"]}
    assert str(error) == (
        "EnrollStudent is not valid: name: is empty; the school is closed; name: is odd. Correct it and send it again."
    )


@given(st.lists(st.lists(st.tuples(st.sampled_from(["", "name", "age"]), st.text(max_size=3)), max_size=3), max_size=4))
async def test_no_failure_of_any_validator_is_lost(found):
    mediator = wire(
        handles(EnrollStudent, answer_name),
        behaviors=[ValidationBehavior],
        collaborators=[finds(EnrollStudent, *failures) for failures in found],
    )
    flat = [pair for failures in found for pair in failures]
    if flat:
        error = await refusal(mediator, EnrollStudent())
        assert [(failure.field, failure.text) for failure in error.failures] == flat
    else:
        assert await mediator.send(EnrollStudent("Ada")) == "Ada"


def test_a_message_without_validators_and_validate_has_no_validation_in_its_pipeline():
    mediator = wire(
        handles(EnrollStudent, answer_name), behaviors=[ValidationBehavior], collaborators=[finds(CountStudents)]
    )
    assert mediator.registry.pipeline(EnrollStudent).behaviors == []


async def test_notifications_are_validated_too():
    seen: list[Any] = []

    async def listen(notification: Any) -> None:
        seen.append(notification)

    mediator = wire(
        listens(StudentEnrolled, listen),
        behaviors=[ValidationBehavior],
        collaborators=[finds(Notification, ("name", "is empty"))],
    )
    with pytest.raises(ValidationFailedError):
        await mediator.publish(StudentEnrolled())
    assert seen == []


async def test_a_value_error_of_a_validator_is_reported_together_with_the_other_failures():
    class Strict(Validator[EnrollStudent]):
        async def validate(self, _message):
            raise ValueError("is impossible")

    error = await refusal(refusing(Strict, finds(EnrollStudent, ("name", "is empty"))), EnrollStudent())
    assert error.by_validator == {"Strict": ["is impossible"], "Finds": ["is empty"]}


async def test_failures_of_another_message_that_a_validator_raises_are_reported_with_the_others():
    class Delegate(Validator[EnrollStudent]):
        async def validate(self, _message):
            raise ValidationFailedError(CountStudents(), [ValidationFailure("course", "is closed", "Inner")])

    error = await refusal(refusing(Delegate, finds(EnrollStudent, ("name", "is empty"))), EnrollStudent())
    assert error.by_validator == {"Inner": ["is closed"], "Finds": ["is empty"]}


async def test_an_error_of_the_library_is_no_failure_of_the_message_although_it_is_a_value_error():
    class Broken(Validator[EnrollStudent]):
        async def validate(self, _message):
            raise SettingError("seconds", 0, "too few")

    with pytest.raises(SettingError):
        await refusing(Broken).send(EnrollStudent())


async def test_a_failed_type_check_of_attrs_is_reported_by_its_text_alone():
    @attrs.frozen
    class Typed(Command[str]):
        name: str = attrs.field(validator=attrs.validators.instance_of(str))

        def validate(self) -> None:
            attrs.validate(self)

    message = Typed("Ada")
    object.__setattr__(message, "name", 7)
    error = await refusal(refusing(message=Typed, errors=(ValueError, TypeError)), message)
    (failure,) = error.failures
    assert failure.text.startswith("'name' must be <class 'str'>")
    assert "Attribute(" not in failure.text  # fields that attrs adds to the error


async def test_any_other_error_of_a_validator_is_raised_unchanged():
    failure = ConnectionError("the database is away")

    class Broken(Validator[EnrollStudent]):
        async def validate(self, _message):
            raise failure

    with pytest.raises(ConnectionError) as caught:
        await refusing(Broken).send(EnrollStudent())
    assert caught.value is failure


async def test_the_errors_that_count_as_failures_are_a_setting():
    class Strict(Validator[EnrollStudent]):
        async def validate(self, _message):
            raise LookupError("unknown course")

    assert (await refusal(refusing(Strict, errors=LookupError), EnrollStudent())).failures[0].text == "unknown course"


# Message classes that validate themselves


@dataclass(frozen=True, slots=True)
class Span(Query[int]):
    first: int
    last: int

    def validate(self) -> Iterator[ValidationFailure]:
        if self.first < 0:
            yield ValidationFailure("first", "is negative")
        if self.last < self.first:
            yield ValidationFailure("last", "is before the first")
        if self.last > 100:
            raise ValueError("is too long")


async def test_a_message_validates_itself_before_its_validators_run():
    error = await refusal(refusing(finds(Span, ("", "another")), message=Span), Span(-1, -2))
    assert error.failures == (
        ValidationFailure("first", "is negative", "Span"),
        ValidationFailure("last", "is before the first", "Span"),
        ValidationFailure("", "another", "Finds"),
    )
    assert (await refusal(refusing(message=Span), Span(-1, -2))).by_validator.keys() == {"Span"}


async def test_failures_that_a_message_yielded_before_raising_are_kept():
    error = await refusal(refusing(message=Span), Span(-1, 200))
    assert [failure.text for failure in error.failures] == ["is negative", "is too long"]


async def test_a_message_may_check_itself_asynchronously_and_return_nothing():
    class Slow(Command[str]):
        name = "Ada"

        async def validate(self) -> None:
            return None

    mediator = wire(handles(Slow, answer_name), behaviors=[ValidationBehavior])
    assert await mediator.send(Slow()) == "Ada"


class PydanticEnroll(pydantic.BaseModel, Command[str]):
    name: Annotated[str, pydantic.Field(min_length=1)]
    seats: Annotated[int, pydantic.Field(ge=1)] = 1


class Revalidated(PydanticEnroll):
    def validate(self) -> None:  # type: ignore[override]  # replaces a deprecated class method
        type(self).model_validate(self.model_dump())


@attrs.frozen
class AttrsEnroll(Command[str]):
    name: str = attrs.field(validator=attrs.validators.min_len(1))

    def validate(self) -> None:
        attrs.validate(self)


class StructEnroll(msgspec.Struct, Command[str], frozen=True):
    name: Annotated[str, msgspec.Meta(min_length=1)]

    def validate(self) -> None:
        msgspec.convert(msgspec.to_builtins(self), StructEnroll)


@pytest.mark.parametrize("cls", [PydanticEnroll, AttrsEnroll])
def test_pydantic_and_attrs_refuse_invalid_messages_at_construction(cls):
    with pytest.raises(ValueError):
        cls(name="")


@pytest.mark.parametrize("cls", [PydanticEnroll, Revalidated, AttrsEnroll, StructEnroll])
async def test_valid_messages_of_every_library_are_handled(cls):
    mediator = wire(handles(cls, answer_name), behaviors=[ValidationBehavior], collaborators=[finds(cls)])
    assert await mediator.send(cls(name="Ada")) == "Ada"


def test_the_deprecated_class_method_of_pydantic_is_not_taken_for_a_check():
    mediator = wire(handles(PydanticEnroll, answer_name), behaviors=[ValidationBehavior])
    assert mediator.registry.pipeline(PydanticEnroll).behaviors == []


async def test_all_failures_of_pydantic_are_reported_with_their_fields_and_without_the_values():
    message = Revalidated.model_construct(name="", seats=-77)
    error = await refusal(refusing(finds(Revalidated, ("", "another")), message=Revalidated), message)
    assert error.by_field.keys() == {"name", "seats", ""}
    assert error.by_validator.keys() == {"Revalidated", "Finds"}
    assert "-77" not in str(error)


async def test_a_failure_of_msgspec_is_reported_with_its_field():
    error = await refusal(refusing(message=StructEnroll), StructEnroll(name=""))
    assert error.failures == (ValidationFailure("name", "Expected `str` of length >= 1", "StructEnroll"),)


async def test_an_invalid_attribute_set_without_attrs_is_found():
    message = AttrsEnroll("Ada")
    object.__setattr__(message, "name", "")
    error = await refusal(refusing(message=AttrsEnroll), message)
    assert "name" in error.failures[0].text
