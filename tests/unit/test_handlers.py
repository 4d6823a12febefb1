"""The messages that a handler class declares."""

import sys
import typing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pytest

from mediator import Command, Notification, NotificationHandler, PipelineBehavior, Request, RequestHandler
from mediator.binding import Binding
from mediator.handlers import message_types, type_arguments
from mediator.messages import is_request
from tests.unit.samples import CountStudents, EnrollStudent, ExpelStudent, StudentChanged, StudentEnrolled

C = TypeVar("C", bound=Command[Any])
M = TypeVar("M")
R = TypeVar("R")


class Direct(RequestHandler[EnrollStudent, str]):
    async def handle(self, request: EnrollStudent, /) -> str:
        return request.name


class Flipped(RequestHandler[M, R], Generic[R, M]):
    """Has its type arguments in another order than its base class."""


class Auditing(PipelineBehavior[C, Any], Generic[C]):
    pass


def test_arguments_of_a_direct_base_are_found():
    assert type_arguments(Direct, RequestHandler) == (EnrollStudent, str)


def test_a_class_without_arguments_inherits_those_of_its_base():
    class Derived(Direct):
        pass

    assert type_arguments(Derived, RequestHandler) == (EnrollStudent, str)


def test_arguments_are_found_through_an_intermediate_generic_class():
    class Last(Flipped[int, CountStudents]):
        pass

    assert type_arguments(Last, RequestHandler) == (CountStudents, int)


def test_arguments_are_found_through_two_generic_classes_and_containers_of_a_parameter():
    class ListOf(RequestHandler[M, list[R]], Generic[M, R]):
        pass

    class ListForCount(ListOf[CountStudents, R]):
        pass

    class Last(ListForCount[int]):
        pass

    assert type_arguments(Last, RequestHandler) == (CountStudents, list[int])


def test_a_mixin_before_the_generic_base_does_not_hide_the_arguments():
    class Mixin:
        pass

    class Mixed(Mixin, RequestHandler[EnrollStudent, str]):
        pass

    assert type_arguments(Mixed, RequestHandler) == (EnrollStudent, str)


def test_a_class_that_is_not_a_handler_has_no_arguments():
    assert type_arguments(EnrollStudent, RequestHandler) is None
    assert type_arguments(Direct, NotificationHandler) is None


def test_a_base_without_arguments_gives_no_arguments():
    class Bare(RequestHandler):
        pass

    assert type_arguments(Bare, RequestHandler) == ()


def test_a_handler_may_be_a_dataclass_with_slots():
    @dataclass(slots=True)
    class Slotted(RequestHandler[EnrollStudent, str]):
        greeting: str = "hello"

        async def handle(self, request: EnrollStudent, /) -> str:
            return self.greeting

    assert type_arguments(Slotted, RequestHandler) == (EnrollStudent, str)


def test_the_response_of_a_message_is_its_type_argument():
    assert type_arguments(EnrollStudent, Request) == (str,)
    assert type_arguments(CountStudents, Request) == (int,)


@pytest.mark.parametrize(
    "union",
    [EnrollStudent | ExpelStudent, typing.Union[EnrollStudent, ExpelStudent]],  # noqa: UP007
)
def test_a_union_matches_its_members(union: Any):
    assert message_types(union) == (EnrollStudent, ExpelStudent)


def test_a_union_within_a_union_expands():
    assert message_types(typing.Union[Command[Any] | Notification, CountStudents]) == (  # noqa: UP007
        Command,
        Notification,
        CountStudents,
    )


def test_any_matches_every_message_and_a_type_variable_matches_its_bound():
    assert message_types(Any) == (object,)
    assert message_types(M) == (object,)
    assert message_types(C) == (Command,)


def test_a_parametrized_message_matches_its_class():
    assert message_types(Command[int]) == (Command,)


@pytest.mark.parametrize("argument", [typing.ForwardRef("EnrollStudent"), "EnrollStudent", None, 3])
def test_an_argument_that_is_no_class_matches_nothing(argument: Any):
    assert message_types(argument) == ()


def test_a_forward_reference_matches_nothing():
    class Forward(RequestHandler["EnrollStudent", str]):
        pass

    assert Binding(Forward, Forward, "container.forward", RequestHandler).messages == ()


def test_a_union_with_a_forward_reference_matches_nothing():
    assert message_types(EnrollStudent | typing.ForwardRef("ExpelStudent")) == ()


def test_a_binding_computes_its_specificity():
    class OfBase(NotificationHandler[StudentChanged]):
        pass

    binding = Binding(OfBase, OfBase, "container.of_base", NotificationHandler)
    assert binding.takes(StudentEnrolled)
    assert not binding.takes(EnrollStudent)
    assert (binding.distance(StudentChanged), binding.distance(StudentEnrolled)) == (0, 1)


def test_a_behavior_without_an_argument_applies_to_the_bound_of_its_type_variable():
    assert Binding(Auditing, Auditing, "container.auditing", PipelineBehavior).messages == (Command,)


def test_a_behavior_without_type_parameters_applies_to_every_message():
    class Bare(PipelineBehavior):
        pass

    assert Binding(Bare, Bare, "container.bare", PipelineBehavior).messages == (object,)


def test_messages_may_be_of_any_class_and_have_a_kind():
    assert is_request(EnrollStudent)
    assert is_request(CountStudents)
    assert not is_request(StudentEnrolled)
    assert EnrollStudent.__slots__ == ("name",)
    assert not hasattr(EnrollStudent(), "__dict__")


if sys.version_info >= (3, 12):
    NEW_SYNTAX = """
class Between[T: Command[Any], Out](RequestHandler[T, Out]):
    pass

class Last(Between[EnrollStudent, str]):
    pass

class Unsaid[T: Command[Any]](PipelineBehavior[T, Any]):
    pass

type Both = EnrollStudent | ExpelStudent
"""

    def test_arguments_are_found_through_type_parameters_of_the_new_syntax():
        names: dict[str, Any] = dict(globals())
        exec(NEW_SYNTAX, names)
        assert type_arguments(names["Last"], RequestHandler) == (EnrollStudent, str)
        assert message_types(type_arguments(names["Unsaid"], PipelineBehavior)[0]) == (Command,)

    def test_a_type_alias_of_the_new_syntax_matches_its_value():
        names: dict[str, Any] = dict(globals())
        exec(NEW_SYNTAX, names)
        assert message_types(names["Both"]) == (EnrollStudent, ExpelStudent)
