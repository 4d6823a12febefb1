"""TimeoutBehavior, without a database."""

import asyncio
from typing import Any

import pytest

from mediator import TimeoutBehavior
from mediator.errors import MessageTimeoutError, SettingError
from tests.unit.samples import CountStudents, EnrollStudent, StudentEnrolled, answer_name
from tests.unit.wiring import around, handles, listens, wire


async def hang(*_: Any) -> Any:
    await asyncio.Event().wait()


async def test_a_message_within_its_time_is_handled():
    assert (
        await wire(handles(EnrollStudent, answer_name), behaviors=[TimeoutBehavior(5)]).send(EnrollStudent()) == "Ada"
    )


async def test_a_message_that_takes_too_long_is_cancelled_and_the_error_names_the_message():
    ended: list[str] = []

    async def work(_message: Any) -> None:
        try:
            await hang()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    message = EnrollStudent()
    with pytest.raises(MessageTimeoutError) as caught:
        await wire(handles(EnrollStudent, work), behaviors=[TimeoutBehavior(0.01)]).send(message)
    assert (caught.value.message, caught.value.seconds, ended) == (message, 0.01, ["cancelled"])
    assert isinstance(caught.value, TimeoutError)
    assert "EnrollStudent was not handled within 0.01 s" in str(caught.value)


async def test_inner_behaviors_count_towards_the_time_and_outer_behaviors_do_not():
    mediator = wire(handles(EnrollStudent, answer_name), behaviors=[TimeoutBehavior(0.01), around(Any, hang)])
    with pytest.raises(MessageTimeoutError):
        await mediator.send(EnrollStudent())


async def test_a_publish_has_the_limit_too():
    with pytest.raises(MessageTimeoutError):
        await wire(listens(StudentEnrolled, hang), behaviors=[TimeoutBehavior(0.01)]).publish(StudentEnrolled())


async def test_a_timeout_of_the_handler_itself_is_raised_unchanged():
    own = TimeoutError("mine")

    async def work(_message: Any) -> None:
        raise own

    with pytest.raises(TimeoutError) as caught:
        await wire(handles(EnrollStudent, work), behaviors=[TimeoutBehavior(5)]).send(EnrollStudent())
    assert caught.value is own


async def test_a_cancellation_from_outside_remains_a_cancellation():
    started = asyncio.Event()

    async def work(_message: Any) -> None:
        started.set()
        await hang()

    mediator = wire(handles(EnrollStudent, work), behaviors=[TimeoutBehavior(5)])
    task = asyncio.create_task(mediator.send(EnrollStudent()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_most_specific_timeout_applies_even_if_it_is_longer():
    class Patient(TimeoutBehavior[EnrollStudent]):
        pass

    async def work(_message: Any) -> str:
        await asyncio.sleep(0.05)
        return "done"

    mediator = wire(
        handles(EnrollStudent, work), handles(CountStudents, work), behaviors=[TimeoutBehavior(0.01), Patient(5)]
    )
    assert await mediator.send(EnrollStudent()) == "done"
    with pytest.raises(MessageTimeoutError):
        await mediator.send(CountStudents())


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_timeout_of_zero_or_less_is_refused(seconds):
    with pytest.raises(SettingError, match="seconds"):
        TimeoutBehavior(seconds)
