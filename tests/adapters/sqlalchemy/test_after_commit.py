"""Publishing after the commit: in order, each in a separate transaction, and never after a rollback."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator import Concurrent, TransactionMode, current_scope
from mediator.distributed.outbox import EventPublisher
from mediator.errors import AfterCommitError, EventsNotPublishedError, RolledBackError
from mediator.transactions import Outcome
from tests.adapters.sqlalchemy.ledger import Do, Ledger, Noted, Write


def noting(*texts: str, fails: bool = False) -> Any:
    async def act(ledger: Ledger) -> None:
        for each in texts:
            ledger.mediator.publish_after_commit(Noted(each, fails=fails))

    return act


async def fail(_ledger: Ledger) -> None:
    raise LookupError("on purpose")


async def test_notifications_are_published_after_the_commit_in_order(ledger: Ledger) -> None:
    async def act(ledger: Ledger) -> None:
        await noting("second", "third")(ledger)
        await ledger.write("first")
        assert await ledger.entries() == []

    await ledger.send(Do(act))
    assert await ledger.entries() == ["first", "second", "third"]


async def test_each_notification_has_its_own_transaction_and_a_failing_one_does_not_stop_the_next(
    ledger: Ledger,
) -> None:
    async def act(ledger: Ledger) -> str:
        await noting("a")(ledger)
        await noting("b", "c", fails=True)(ledger)
        await noting("d")(ledger)
        await ledger.write("command")
        return "response"

    async with ledger.mediator.scope() as scope:
        with pytest.raises(AfterCommitError, match="Noted, Noted failed: LookupError") as caught:
            await ledger.send(Do(act))
        assert (scope.outcome, scope.response) == (Outcome.COMMITTED, "response")
    assert await ledger.entries() == ["command", "a", "d"]
    assert caught.value.response == "response"
    assert caught.value.notifications == [Noted("b", fails=True), Noted("c", fails=True)]
    assert [str(error) for error in caught.value.errors] == ["b", "c"]


async def test_a_rollback_drops_the_notifications(ledger: Ledger) -> None:
    async def act(ledger: Ledger) -> None:
        await noting("never")(ledger)
        await fail(ledger)

    async with ledger.mediator.scope():
        with pytest.raises(LookupError):
            await ledger.send(Do(act))
        await ledger.send(Write("good"))
    assert await ledger.entries() == ["good"]


async def test_notifications_of_a_nested_command_wait_for_the_outermost_commit(ledger: Ledger) -> None:
    async def act(ledger: Ledger) -> None:
        await ledger.send(Write("inner", then=noting("after")))
        await ledger.write("outer")

    await ledger.send(Do(act))
    assert await ledger.entries() == ["inner", "outer", "after"]


async def test_a_swallowed_failure_drops_the_notifications_of_the_doomed_commit(ledger: Ledger) -> None:
    async def act(ledger: Ledger) -> None:
        await noting("never")(ledger)
        with pytest.raises(LookupError):
            await ledger.send(Do(fail))

    with pytest.raises(RolledBackError):
        await ledger.send(Do(act))
    assert await ledger.entries() == []


async def test_a_rollback_to_a_savepoint_drops_the_notifications_added_since(ledger: Ledger) -> None:
    async def inner(ledger: Ledger) -> None:
        await noting("dropped")(ledger)
        await fail(ledger)

    async def act(ledger: Ledger) -> None:
        await noting("before")(ledger)
        with pytest.raises(LookupError):
            await ledger.send(Do(inner), mode=TransactionMode.NESTED)
        await ledger.send(Do(noting("kept")), mode=TransactionMode.NESTED)

    await ledger.send(Do(act))
    assert await ledger.entries() == ["before", "kept"]


async def test_handlers_after_a_commit_may_publish_after_their_own_commit(ledger: Ledger) -> None:
    scopes = []

    async def second(ledger: Ledger) -> None:
        scopes.append(current_scope())
        await noting("third")(ledger)
        await ledger.write("second")

    async def act(ledger: Ledger) -> None:
        scopes.append(current_scope())
        ledger.mediator.publish_after_commit(Noted("first"))
        current_scope().transaction.after_commit("second", lambda: ledger.send(Do(second), mode=TransactionMode.NEW))

    await ledger.send(Do(act))
    assert await ledger.entries() == ["first", "second", "third"]
    assert scopes[0] is not scopes[1]


async def test_handlers_after_a_commit_may_run_concurrently(ledger: Ledger) -> None:
    async def act(ledger: Ledger) -> None:
        ledger.mediator.publish_after_commit(Noted("after"), strategy=Concurrent())

    await ledger.send(Do(act))
    assert await ledger.entries() == ["after"]


async def test_notifications_are_published_although_the_caller_is_cancelled(ledger: Ledger) -> None:
    async def cancel_caller() -> None:
        task.cancel()

    async def act(ledger: Ledger) -> None:
        await noting("first")(ledger)
        current_scope().transaction.after_commit("cancel", cancel_caller)
        await noting("last")(ledger)

    task = asyncio.create_task(ledger.send(Do(act)))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ledger.entries() == ["first", "last"]


async def test_a_handler_that_cancels_itself_counts_as_failed(ledger: Ledger) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def act(ledger: Ledger) -> None:
        current_scope().transaction.after_commit(Noted("cancelled"), cancelled)
        await noting("next")(ledger)

    with pytest.raises(AfterCommitError) as caught:
        await ledger.send(Do(act))
    assert isinstance(caught.value.errors[0], asyncio.CancelledError)
    assert await ledger.entries() == ["next"]


@pytest.mark.thorough("waits in real time, or does much work")
async def test_notifications_have_a_time_limit_and_the_error_names_the_unfinished_ones(engine: AsyncEngine) -> None:
    ledger = Ledger(engine, behavior_options={"after_commit_timeout": 1.0})
    cancelled = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def act(ledger: Ledger) -> None:
        await noting("done")(ledger)
        current_scope().transaction.after_commit(Noted("slow"), hang)
        await noting("too late")(ledger)

    with pytest.raises(AfterCommitError, match=r"did not end within 1 s") as caught:
        await ledger.send(Do(act))
    assert caught.value.notifications == [Noted("slow"), Noted("too late")]
    assert cancelled.is_set()
    assert await ledger.entries() == ["done"]


class Unreachable(EventPublisher):
    async def publish(self, _events: Any, /) -> Any:
        raise ConnectionError("away")


async def test_notifications_are_published_after_a_failed_direct_delivery_and_one_error_names_both(
    engine: AsyncEngine,
) -> None:
    options = {"delivery": "direct", "publisher": Unreachable()}
    ledger = Ledger(engine, behavior_options=options)
    with pytest.raises(EventsNotPublishedError):
        await ledger.send(Write("a", then=noting("after a")))
    assert await ledger.entries() == ["a", "after a"]
    with pytest.raises(AfterCommitError) as caught:
        await ledger.send(Write("b", then=noting("failing", fails=True)))
    assert [type(error) for error in caught.value.errors] == [EventsNotPublishedError, LookupError]
    assert caught.value.response == "B"


async def test_concurrent_commands_have_separate_queues_of_notifications(ledger: Ledger) -> None:
    async def act(number: int) -> None:
        async def work(ledger: Ledger) -> None:
            ledger.mediator.publish_after_commit(Noted(f"{number}"))
            await asyncio.sleep(0)
            if number % 2:
                await fail(ledger)

        await ledger.send(Do(work))

    results = await asyncio.gather(*map(act, range(20)), return_exceptions=True)
    assert [isinstance(result, LookupError) for result in results] == [bool(n % 2) for n in range(20)]
    assert sorted(await ledger.entries(), key=int) == [f"{n}" for n in range(0, 20, 2)]
