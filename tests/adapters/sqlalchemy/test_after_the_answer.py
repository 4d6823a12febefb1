"""After the database's answer to COMMIT, errors of listeners, locks and doorbells do not change the outcome."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from mediator.distributed.outbox import Doorbell
from mediator.errors import CommitOutcomeUnknownError, CommittedError
from mediator.sqlalchemy import SqlAlchemyOutbox
from mediator.sqlalchemy.engine import database_of
from mediator.transactions import Outcome
from tests.adapters.sqlalchemy.ledger import Ledger, Write, pool_of, sqlite_only

LATE = OSError(28, "No space left on device")


@contextlib.contextmanager
def listening(target: Any, name: str, *, times: int = 1) -> Iterator[None]:
    """A listener of the application that fails."""
    left = [LATE] * times

    def listener(*_arguments: Any) -> None:
        if left:
            raise left.pop()

    event.listen(target, name, listener)
    try:
        yield
    finally:
        event.remove(target, name, listener)


async def check(ledger: Ledger, *, committed: bool) -> None:
    """Check that the sender learns the same outcome as the database has, and that the next command works."""
    async with ledger.mediator.scope() as scope:
        with pytest.raises(Exception) as caught:
            await ledger.send(Write("a"))
        assert scope.outcome is (Outcome.COMMITTED if committed else Outcome.ROLLED_BACK)
    if committed:
        assert isinstance(caught.value, CommittedError)
        assert (caught.value.response, caught.value.__cause__) == ("A", LATE)
    else:
        assert not isinstance(caught.value, CommittedError | CommitOutcomeUnknownError)
    assert await ledger.send(Write("b")) == "B"
    assert await ledger.entries() == await ledger.staged() == (["a", "b"] if committed else ["b"])
    assert pool_of(ledger.engine).checkedout() == 0


@pytest.mark.parametrize("name", ["after_commit", "after_transaction_end"])
async def test_a_session_listener_that_fails_after_the_commit_does_not_fail_the_command(
    ledger: Ledger, name: str
) -> None:
    with listening(Session, name):
        await check(ledger, committed=True)


async def test_a_session_listener_that_fails_before_the_commit_fails_the_command(ledger: Ledger) -> None:
    with listening(Session, "before_commit"):
        await check(ledger, committed=False)


async def test_a_listener_that_fails_before_the_second_commit_of_a_scope_fails_the_second_command(
    ledger: Ledger,
) -> None:
    async with ledger.mediator.scope() as scope:
        await ledger.send(Write("a"))
        with listening(Session, "before_commit"), pytest.raises(OSError, match="No space") as caught:
            await ledger.send(Write("b"))
        assert (caught.value, scope.outcome) == (LATE, Outcome.ROLLED_BACK)
    assert await ledger.entries() == await ledger.staged() == ["a"]


async def test_an_engine_listener_that_fails_before_the_commit_fails_the_command(ledger: Ledger) -> None:
    database_of(ledger.engine)
    with listening(ledger.engine.sync_engine, "commit"):
        await check(ledger, committed=False)


@sqlite_only
async def test_a_failed_release_of_a_lock_after_the_commit_does_not_fail_the_command(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    database: Any = database_of(ledger.engine)
    release, failures = database.lock.release, [LATE]

    def fail_once() -> None:
        release()
        if failures:
            raise failures.pop()

    monkeypatch.setattr(database.lock, "release", fail_once)
    await check(ledger, committed=True)


class BrokenBell(Doorbell):
    def __init__(self) -> None:
        self.rings = 0

    def ring(self) -> None:
        self.rings += 1
        raise ConnectionError("the bell is broken")

    def on_ring(self, listener: Callable[[], None], /) -> None:
        pass


async def test_a_failing_doorbell_is_logged_once_and_the_relay_is_woken(engine: AsyncEngine) -> None:
    ledger, bell = Ledger(engine), BrokenBell()
    others = [SqlAlchemyOutbox(engine, doorbell=bell), SqlAlchemyOutbox(engine)]
    waiting = [asyncio.create_task(outbox.wait(60)) for outbox in (ledger.outbox, *others)]
    await asyncio.sleep(0)
    with capture_logs() as logs:
        assert await ledger.send(Write("a")) == "A"
        async with asyncio.timeout(10):
            await asyncio.gather(*waiting)
        assert await ledger.send(Write("b")) == "B"
    assert bell.rings == 2
    said = [line for line in logs if line["event"].startswith("watcher")]
    assert [line["error"] for line in said] == ["ConnectionError"]


async def test_a_failed_close_of_a_session_does_not_fail_the_command(ledger: Ledger) -> None:
    async def close_badly(ledger: Ledger) -> None:
        scope_exit = ledger.unit_of_work.aclose

        async def fail() -> None:
            await scope_exit()
            raise LATE

        ledger.unit_of_work.aclose = fail  # type: ignore[method-assign]

    with pytest.raises(CommittedError) as caught:
        await ledger.send(Write("a", then=close_badly))
    assert (caught.value.response, caught.value.__cause__) == ("A", LATE)
    assert await ledger.entries() == ["a"]
