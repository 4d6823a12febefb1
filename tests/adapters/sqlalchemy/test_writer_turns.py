"""Times of the writers of several processes: how long one keeps the file, which is next, what a failure releases.

Each `WriterLock` stands for a process: file locks do not know that all are in one process.
"""

import asyncio
import gc
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from mediator.errors import DatabaseUnavailableError, WriterTimeoutError
from mediator.sqlalchemy.writer import WriterLock
from tests.unit.virtual_time import in_virtual_time, now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


def process(file: Path, timeout: float = 30.0) -> WriterLock:
    return WriterLock(file, timeout=timeout, clock=now)


def is_free(file: Path, name: str) -> bool:
    try:
        with FileLock(f"{file}.{name}", thread_local=False).acquire(blocking=False):
            return True
    except Timeout:
        return False


class Busy:
    """A process in which several writers return at once; each takes 5 ms."""

    def __init__(self, lock: WriterLock, writers: int, written: Callable[[], None] = lambda: None) -> None:
        self.lock = lock
        self.turns: list[float] = []
        self._written = written
        self.tasks = [asyncio.create_task(self._write(number)) for number in range(writers)]

    async def _write(self, number: int) -> None:
        while True:
            await self.lock.acquire(number)
            self.turns.append(now())
            self._written()
            await asyncio.sleep(0.005)
            self.lock.release()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


@in_virtual_time
async def test_a_writer_waits_at_most_30_ms_for_a_process_that_writes_continuously(file: Path) -> None:
    busy, other = Busy(process(file), 4), process(file)
    await asyncio.sleep(1)
    waits: list[float] = []
    for _ in range(40):
        began = now()
        await other.acquire("other")
        waits.append(now() - began)
        other.release()
        await asyncio.sleep(0.0007 * len(waits))
    assert max(waits) <= 0.045, waits  # the rest of 20 ms, the running writer, and one poll
    assert sum(waits) / len(waits) >= 0.003  # a process keeps the file for its own writers for this time
    await busy.stop()


@in_virtual_time
async def test_three_processes_that_write_continuously_write_equally_often(file: Path) -> None:
    order: list[int] = []
    busy = [Busy(process(file), 4, lambda number=number: order.append(number)) for number in range(3)]  # type: ignore[misc]
    await asyncio.sleep(4)
    for each in busy:
        await each.stop()
    turns = Counter(order)
    assert min(turns.values()) >= 0.7 * max(turns.values()), turns
    kept = [len(list(run)) for run in _runs(order)]
    assert max(kept) <= 6  # 20 ms and the writer that runs
    assert sum(kept) / len(kept) >= 2.5  # changing the process for each writer would be slow


def _runs(order: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for each in order:
        if runs and runs[-1][0] == each:
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs


@in_virtual_time
async def test_a_waiting_writer_gets_the_file_soon_after_its_release(file: Path) -> None:
    first, second = process(file), process(file)
    for held in (0.003, 0.05, 0.4, 3.0):
        await first.acquire("first")
        waiting = asyncio.create_task(second.acquire("second"))
        await asyncio.sleep(held)
        first.release()
        freed = now()
        await waiting
        assert now() - freed <= 0.0021
        second.release()


@in_virtual_time
async def test_a_process_frozen_in_the_turnstile_costs_half_a_second_every_five_seconds(file: Path) -> None:
    lock, waits = process(file), list[tuple[float, float]]()
    with FileLock(f"{file}.turnstile", thread_local=False):
        while now() < 17:
            began = now()
            await lock.acquire("one of many")
            if now() > began:
                waits.append((began, now() - began))
            lock.release()
            await asyncio.sleep(0.05)
    assert [round(waited, 1) for _, waited in waits] == [0.5] * 4
    assert all(later - earlier <= 5.7 for (earlier, _), (later, _) in itertools.pairwise(waits))
    await asyncio.sleep(6)
    began = now()
    await lock.acquire("again")
    assert now() == began
    assert is_free(file, "turnstile")
    lock.release()


@in_virtual_time
async def test_a_writer_with_a_short_timeout_spends_little_of_it_on_a_frozen_process(file: Path) -> None:
    lock = process(file, timeout=0.4)
    with FileLock(f"{file}.turnstile", thread_local=False):
        await lock.acquire("a")
        assert now() == pytest.approx(0.1, abs=0.02)
        lock.release()


@pytest.mark.parametrize("where", ["in its process", "in another one"])
@in_virtual_time
async def test_a_wait_ends_at_its_timeout_and_leaves_no_lock(file: Path, where: str) -> None:
    lock = process(file, timeout=3.0)
    holder = lock if where == "in its process" else process(file)
    await holder.acquire("holder")
    for _ in range(3):
        began = now()
        with pytest.raises(WriterTimeoutError):
            await lock.acquire("late")
        assert now() - began == pytest.approx(3.0)
        assert is_free(file, "turnstile")
    holder.release()
    assert is_free(file, "writer")
    async with asyncio.timeout(1):
        await lock.acquire("next")
    assert not is_free(file, "writer")
    lock.release()
    assert is_free(file, "writer")


@pytest.mark.parametrize("where", ["in its process", "in another one"])
@in_virtual_time
async def test_a_cancelled_wait_leaves_no_lock(file: Path, where: str) -> None:
    lock = process(file)
    holder = lock if where == "in its process" else process(file)
    await holder.acquire("holder")
    for moment in (0.0, 0.001, 0.011, 0.3):
        waiting = asyncio.create_task(lock.acquire("cancelled"))
        await asyncio.sleep(moment)
        waiting.cancel()
        await asyncio.wait((waiting,))
        assert waiting.cancelled()
    holder.release()
    assert (is_free(file, "writer"), is_free(file, "turnstile")) == (True, True)
    async with asyncio.timeout(1):
        await lock.acquire("next")
        lock.release()
        await holder.acquire("next")
        holder.release()


@in_virtual_time
async def test_a_lock_file_is_an_error_as_long_as_it_cannot_be_opened(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    lock = process(folder / "app.db", timeout=2.0)
    for name in ("writer", "turnstile"):
        (folder / f"app.db.{name}").mkdir()
        for _ in range(2):
            with pytest.raises(DatabaseUnavailableError):
                await lock.acquire("a")
        (folder / f"app.db.{name}").rmdir()
        await lock.acquire("b")
        lock.release()
        for other in ("writer", "turnstile"):
            (folder / f"app.db.{other}").unlink(missing_ok=True)


@in_virtual_time
async def test_writers_of_a_process_have_their_turns_in_the_order_of_asking(file: Path) -> None:
    lock, order = process(file), list[int]()

    async def write(number: int) -> None:
        await lock.acquire(number)
        order.append(number)
        await asyncio.sleep(0.003)
        lock.release()

    for _ in range(2):
        order.clear()
        await asyncio.gather(*(write(number) for number in range(12)))
        assert order == list(range(12))
        assert is_free(file, "writer")


@pytest.mark.thorough("waits for locks in several processes")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("forgotten", ["before", "while the next one writes", "afterwards", "never"])
def test_the_next_event_loop_starts_without_the_writers_of_the_last_one(file: Path, forgotten: str) -> None:
    """The last loop is closed as it is, and its tasks are not cancelled."""
    lock, other = WriterLock(file), FileLock(f"{file}.writer", thread_local=False)
    tasks: list[asyncio.Task[None]] = []

    def close_as_it_is(loop: asyncio.AbstractEventLoop, *holders: str) -> None:
        loop.set_exception_handler(lambda _loop, _context: None)
        tasks[:] = [loop.create_task(lock.acquire(holder)) for holder in holders]
        loop.run_until_complete(asyncio.wait(tasks, timeout=0.05))
        loop.close()
        if forgotten != "never":
            tasks.clear()

    async def write() -> None:
        await lock.acquire("next one")
        if forgotten == "while the next one writes":
            gc.collect()
        assert not is_free(file, "writer")
        lock.release()
        if forgotten == "afterwards":
            gc.collect()
        assert is_free(file, "writer")
        assert is_free(file, "turnstile")

    for holders_wait in (False, True):
        if holders_wait:
            other.acquire()
        close_as_it_is(asyncio.new_event_loop(), "first", "second", "third")
        if holders_wait:
            other.release()
        if forgotten == "before":
            gc.collect()
        for _ in range(2):
            asyncio.run(write())
    tasks.clear()
    gc.collect()  # freed objects report the closed loop here, and not in another test
