"""The end of a scope: its exit callbacks, and its errors."""

import asyncio
from collections.abc import Callable

import pytest

from mediator.errors import MediatorError
from mediator.scope import Scope
from tests.unit.wiring import wire


def noting(log: list[str], name: str, failure: BaseException | None = None) -> Callable[[BaseException | None], None]:
    def callback(_error: BaseException | None) -> None:
        log.append(name)
        if failure is not None:
            raise failure

    return callback


async def test_exit_callbacks_run_last_added_first_and_receive_the_error():
    log: list[tuple[str, BaseException | None]] = []

    async def asynchronous(error: BaseException | None) -> None:
        await asyncio.sleep(0)
        log.append(("asynchronous", error))

    failure = ValueError()
    with pytest.raises(ValueError):
        async with wire().scope() as scope:
            scope.on_exit(lambda error: log.append(("first", error)))
            scope.on_exit(asynchronous)
            raise failure
    assert log == [("asynchronous", failure), ("first", failure)]


async def test_all_exit_callbacks_run_although_some_fail_and_all_failures_are_raised():
    log: list[str] = []
    first, second = ValueError("first"), KeyError("second")
    with pytest.raises(BaseExceptionGroup) as caught:
        async with wire().scope() as scope:
            scope.on_exit(noting(log, "a", second))
            scope.on_exit(noting(log, "b"))
            scope.on_exit(noting(log, "c", first))
    assert log == ["c", "b", "a"]
    assert caught.value.exceptions == (first, second)
    assert isinstance(caught.value, ExceptionGroup)


async def test_a_single_failure_is_raised_unchanged():
    failure = MediatorError("only one")
    with pytest.raises(MediatorError) as caught:
        async with wire().scope() as scope:
            scope.on_exit(noting([], "a", failure))
    assert caught.value is failure


async def test_failures_while_closing_become_notes_of_the_error_that_ended_the_scope():
    failure = ValueError("business")
    with pytest.raises(ValueError, match="business") as caught:
        async with wire().scope() as scope:
            scope.on_exit(noting([], "a", KeyError("closing")))
            raise failure
    assert caught.value is failure
    assert failure.__notes__ == ["While closing the scope: KeyError('closing')"]


@pytest.mark.parametrize("body_fails", [True, False])
async def test_a_cancellation_while_closing_wins_and_the_other_callbacks_still_run(body_fails: bool):
    log: list[str] = []
    waiting = asyncio.Event()

    async def wait_for_ever(_error: BaseException | None) -> None:
        waiting.set()
        await asyncio.get_running_loop().create_future()

    async def work() -> None:
        async with wire().scope() as scope:
            scope.on_exit(noting(log, "a"))
            scope.on_exit(wait_for_ever)
            scope.on_exit(noting(log, "b", ValueError()))
            if body_fails:
                raise KeyError

    task = asyncio.create_task(work())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["b", "a"]


async def test_a_callback_added_while_closing_runs_too():
    log: list[str] = []
    async with wire().scope() as scope:
        scope.on_exit(lambda _error: scope.on_exit(noting(log, "late")))
    assert log == ["late"]


async def test_a_scope_without_callbacks_can_be_closed():
    scope = Scope()
    await scope.close(None)
    assert scope.closed
