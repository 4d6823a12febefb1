"""The transaction of a command, committed and rolled back on a real SQLite file."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from structlog.testing import capture_logs

from mediator import TransactionMode, current_scope, current_unit_of_work
from mediator.errors import MisuseError, NoUnitOfWorkError, RolledBackError, ScopeError
from mediator.transactions import Outcome
from tests.adapters.sqlalchemy.ledger import Count, Do, EntryWritten, Ledger, Noted, Write, sqlite_only


async def fail(_ledger: Ledger) -> None:
    raise LookupError("on purpose")


async def test_a_command_commits_its_rows_and_its_events_together(ledger: Ledger) -> None:
    assert await ledger.send(Write("a")) == "A"
    assert await ledger.entries() == await ledger.staged() == ["a"]


async def test_a_failed_command_leaves_neither_rows_nor_events(ledger: Ledger) -> None:
    with pytest.raises(LookupError, match="on purpose"):
        await ledger.send(Write("a", then=fail))
    assert await ledger.entries() == await ledger.staged() == []


async def test_a_good_command_after_a_rolled_back_one_in_the_same_scope_sends_only_its_own_events(
    ledger: Ledger,
) -> None:
    async with ledger.mediator.scope() as scope:
        with pytest.raises(LookupError):
            await ledger.send(Write("bad", then=fail))
        assert scope.outcome is Outcome.ROLLED_BACK
        await ledger.send(Write("good"))
        assert (scope.outcome, scope.response) == (Outcome.COMMITTED, "GOOD")
    assert await ledger.entries() == await ledger.staged() == ["good"]


async def test_a_nested_command_is_committed_by_the_outermost_and_not_before(ledger: Ledger) -> None:
    async def nested(ledger: Ledger) -> None:
        await ledger.send(Write("inner"))
        assert await ledger.entries() == await ledger.staged() == []

    await ledger.send(Write("outer", then=nested))
    assert await ledger.entries() == await ledger.staged() == ["outer", "inner"]


async def test_a_rollback_of_the_outer_command_includes_the_nested_one(ledger: Ledger) -> None:
    async def nested(ledger: Ledger) -> None:
        await ledger.send(Write("inner"))
        raise LookupError

    with pytest.raises(LookupError):
        await ledger.send(Write("outer", then=nested))
    assert await ledger.entries() == await ledger.staged() == []


async def test_a_new_transaction_before_the_outer_ones_first_statement_commits_independently(ledger: Ledger) -> None:
    async def independent(ledger: Ledger) -> None:
        await ledger.send(Write("independent"), mode=TransactionMode.NEW)

    with pytest.raises(LookupError):
        await ledger.send(Write("outer", first=independent, then=fail))
    assert await ledger.entries() == await ledger.staged() == ["independent"]


@sqlite_only
async def test_an_inner_writer_under_an_outer_one_is_refused_at_once(ledger: Ledger) -> None:
    async def independent(ledger: Ledger) -> None:
        await ledger.send(Write("inner"), mode=TransactionMode.NEW)

    async with asyncio.timeout(5):
        with pytest.raises(MisuseError, match=r"wait forever.*ledger\.db"):
            await ledger.send(Write("outer", then=independent))
    assert await ledger.entries() == []


async def test_a_swallowed_failure_of_an_inner_command_dooms_the_outer_commit(ledger: Ledger) -> None:
    async def swallow(ledger: Ledger) -> None:
        with pytest.raises(LookupError):
            await ledger.send(Write("inner", then=fail))

    with pytest.raises(RolledBackError, match="Write failed in it.*on purpose"):
        await ledger.send(Write("outer", then=swallow))
    assert await ledger.entries() == await ledger.staged() == []


async def test_a_swallowed_failure_of_a_notification_dooms_the_outer_commit(ledger: Ledger) -> None:
    async def swallow(ledger: Ledger) -> None:
        with pytest.raises(LookupError):
            await ledger.mediator.publish(Noted("note", fails=True))

    with pytest.raises(RolledBackError, match="Noted"):
        await ledger.send(Write("outer", then=swallow))
    assert await ledger.entries() == []


async def test_a_swallowed_database_error_dooms_the_commit(ledger: Ledger) -> None:
    async def swallow(ledger: Ledger) -> None:
        with pytest.raises(DBAPIError):
            await ledger.unit_of_work.session.execute(text("INSERT INTO nowhere VALUES (1)"))

    with pytest.raises(RolledBackError, match="nowhere"):
        await ledger.send(Write("outer", then=swallow))
    assert await ledger.entries() == await ledger.staged() == []


async def test_a_database_error_inside_a_savepoint_of_the_handler_does_not_doom_the_command(ledger: Ledger) -> None:
    async def tolerate(ledger: Ledger) -> None:
        with pytest.raises(DBAPIError):
            async with ledger.unit_of_work.session.begin_nested():
                await ledger.unit_of_work.session.execute(text("INSERT INTO nowhere VALUES (1)"))

    await ledger.send(Write("outer", then=tolerate))
    assert await ledger.entries() == await ledger.staged() == ["outer"]


async def test_a_failed_nested_dispatch_undoes_its_part_and_does_not_doom_the_outer_one(ledger: Ledger) -> None:
    async def swallow(ledger: Ledger) -> None:
        with pytest.raises(LookupError):
            await ledger.send(Write("inner", then=fail), mode=TransactionMode.NESTED)
        await ledger.send(Write("kept"), mode=TransactionMode.NESTED)

    await ledger.send(Write("outer", then=swallow))
    assert await ledger.entries() == await ledger.staged() == ["outer", "kept"]


async def test_a_swallowed_database_error_in_a_nested_dispatch_undoes_only_that_dispatch(ledger: Ledger) -> None:
    async def break_it(ledger: Ledger) -> None:
        with pytest.raises(DBAPIError):
            await ledger.unit_of_work.session.execute(text("INSERT INTO nowhere VALUES (1)"))

    async def swallow(ledger: Ledger) -> None:
        with pytest.raises(RolledBackError):
            await ledger.send(Write("inner", then=break_it), mode=TransactionMode.NESTED)

    await ledger.send(Write("outer", then=swallow))
    assert await ledger.entries() == await ledger.staged() == ["outer"]


async def test_a_failed_joined_command_inside_a_nested_one_dooms_the_nested_one_only(ledger: Ledger) -> None:
    async def innermost(ledger: Ledger) -> None:
        with pytest.raises(LookupError):
            await ledger.send(Write("innermost", then=fail))

    async def nested(ledger: Ledger) -> None:
        with pytest.raises(RolledBackError):
            await ledger.send(Write("nested", then=innermost), mode=TransactionMode.NESTED)

    await ledger.send(Write("outer", then=nested))
    assert await ledger.entries() == ["outer"]


async def test_a_nested_dispatch_without_a_running_transaction_begins_one(ledger: Ledger) -> None:
    await ledger.send(Write("a"), mode=TransactionMode.NESTED)
    assert await ledger.entries() == await ledger.staged() == ["a"]


async def test_a_suppressed_dispatch_has_no_transaction_to_write_in(ledger: Ledger) -> None:
    with pytest.raises(NoUnitOfWorkError, match="Writing to the database"):
        await ledger.send(Write("a"), mode=TransactionMode.SUPPRESS)
    assert await ledger.entries() == []


async def test_a_suppressed_dispatch_cannot_raise_events(ledger: Ledger) -> None:
    async def raise_event(ledger: Ledger) -> None:
        ledger.events.add(EntryWritten("a"))

    with pytest.raises(NoUnitOfWorkError, match="EntryWritten"):
        await ledger.send(Do(raise_event), mode=TransactionMode.SUPPRESS)


async def test_an_event_outside_a_unit_of_work_is_refused(ledger: Ledger) -> None:
    async with ledger.mediator.scope():
        with pytest.raises(NoUnitOfWorkError, match="EntryWritten"):
            ledger.events.add(EntryWritten("a"))


async def test_a_query_does_not_prevent_the_commit_of_a_later_command_in_the_same_scope(ledger: Ledger) -> None:
    async with ledger.mediator.scope():
        assert await ledger.send(Count()) == 0
        await ledger.send(Write("a"))
        assert await ledger.send(Count()) == 1
    assert await ledger.entries() == ["a"]


@pytest.mark.parametrize("operation", ["commit", "rollback", "close", "reset", "invalidate"])
async def test_a_handler_that_ends_the_transaction_itself_gets_an_error(ledger: Ledger, operation: str) -> None:
    async def end(ledger: Ledger) -> None:
        await getattr(ledger.unit_of_work.session, operation)()

    with pytest.raises(MisuseError, match=operation):
        await ledger.send(Write("a", then=end))
    assert await ledger.entries() == await ledger.staged() == []


async def test_a_handler_that_swallows_the_error_of_its_own_commit_is_rolled_back(ledger: Ledger) -> None:
    async def end(ledger: Ledger) -> None:
        with pytest.raises(MisuseError, match="was called inside unit of work"):
            await ledger.unit_of_work.session.commit()

    with pytest.raises(RolledBackError, match=r"session\.commit"):
        await ledger.send(Write("a", then=end))
    assert await ledger.entries() == []


async def test_the_database_is_not_touched_before_the_first_statement(ledger: Ledger) -> None:
    blocked = asyncio.Event()
    release = asyncio.Event()

    async def hold(_ledger: Ledger) -> None:
        blocked.set()
        await release.wait()

    async def nothing(_ledger: Ledger) -> str:
        return "done"

    async with asyncio.TaskGroup() as group:
        group.create_task(ledger.send(Write("slow", then=hold)))
        await blocked.wait()
        assert await ledger.send(Do(nothing)) == "done"
        release.set()


async def test_a_constraint_checked_at_commit_rolls_the_command_back(ledger: Ledger) -> None:
    async def orphan(ledger: Ledger) -> None:
        await ledger.unit_of_work.session.execute(text("INSERT INTO children VALUES (42)"))

    with capture_logs() as logs, pytest.raises(IntegrityError):
        await ledger.send(Write("a", then=orphan))
    assert await ledger.entries() == await ledger.staged() == []
    assert [line["event"] for line in logs if line["log_level"] != "debug"] == ["transaction rolled back"]
    await ledger.send(Write("b"))
    assert await ledger.entries() == ["b"]


async def test_a_hundred_concurrent_commands_do_not_interfere(ledger: Ledger) -> None:
    seen: set[int] = set()

    async def check(ledger: Ledger) -> None:
        seen.add(id(current_scope()))
        before = [event.text for event in current_unit_of_work().pending_events if isinstance(event, EntryWritten)]
        await asyncio.sleep(0)
        after = [event.text for event in current_unit_of_work().pending_events if isinstance(event, EntryWritten)]
        assert len(before) == 1
        assert before == after

    async def nested(ledger: Ledger) -> None:
        await check(ledger)
        if len(seen) % 3 == 0:
            raise LookupError

    commands = [Write(str(number), then=nested) for number in range(100)]
    results = await asyncio.gather(*(ledger.send(command) for command in commands), return_exceptions=True)
    committed = {str(number) for number, result in enumerate(results) if not isinstance(result, BaseException)}
    assert 0 < len(committed) < 100
    assert set(await ledger.entries()) == set(await ledger.staged()) == committed


async def test_two_concurrent_dispatches_in_one_transaction_are_refused_and_roll_it_back(ledger: Ledger) -> None:
    async def both(ledger: Ledger) -> None:
        await asyncio.gather(ledger.send(Write("x")), ledger.send(Write("y")))

    with pytest.raises(ScopeError, match="at the same time"):
        await ledger.send(Write("outer", then=both))
    assert await ledger.entries() == []


async def test_a_command_does_not_commit_while_a_forgotten_task_runs_in_its_transaction(ledger: Ledger) -> None:
    tasks: list[asyncio.Task[Any]] = []
    started, release = asyncio.Event(), asyncio.Event()

    async def wait(_ledger: Ledger) -> None:
        started.set()
        await release.wait()

    async def forget(ledger: Ledger) -> None:
        tasks.append(asyncio.create_task(ledger.send(Do(wait))))
        await started.wait()

    with pytest.raises(ScopeError, match="Write and Do"):
        await ledger.send(Write("outer", then=forget))
    release.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await ledger.entries() == []


async def test_a_manual_unit_of_work_uses_the_same_commit_path(ledger: Ledger) -> None:
    async with ledger.mediator.scope():
        async with ledger.unit_of_work:
            await ledger.write("a")
            ledger.events.add(EntryWritten("a"))
            await ledger.send(Write("b"))
            assert await ledger.entries() == []
        with pytest.raises(LookupError):
            async with ledger.unit_of_work:
                await ledger.write("c")
                raise LookupError
    assert await ledger.entries() == await ledger.staged() == ["a", "b"]


async def test_a_second_concurrent_transaction_in_a_scope_is_refused(ledger: Ledger) -> None:
    async def again(ledger: Ledger) -> None:
        async with ledger.unit_of_work:
            pass

    with pytest.raises(MisuseError, match="is already running in"):
        await ledger.send(Write("a", then=again))


@sqlite_only
async def test_an_isolation_level_that_sqlite_does_not_support_is_refused(ledger: Ledger) -> None:
    strict = Ledger(ledger.engine, behavior_options={"isolation": "READ COMMITTED"})
    with pytest.raises(MisuseError, match="READ COMMITTED"):
        await strict.send(Write("a"))


async def test_begin_and_end_of_a_transaction_are_logged_without_payload(ledger: Ledger) -> None:
    with capture_logs() as logs:
        await ledger.send(Write("secret"))
        with pytest.raises(LookupError):
            await ledger.send(Write("secret", then=fail))
    begun, committed, _, rolled_back = logs
    assert begun["event"] == "transaction begun"
    assert committed["event"] == "transaction committed"
    assert committed["transaction_id"] == begun["transaction_id"]
    assert (committed["message_type"], committed["events"]) == ("Write", 1)
    assert rolled_back["event"] == "transaction rolled back"
    assert rolled_back["error"] == "LookupError"
    assert "secret" not in repr(logs)
