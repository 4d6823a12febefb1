"""WriterLock: writers of several processes take turns. File locks do not know which writers share a process."""

import asyncio
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from mediator.sqlalchemy.writer import WriterLock
from tests.assumptions.process import holding

NEVER_STOPPING = """
import asyncio
import threading
import time
from pathlib import Path
from mediator.sqlalchemy.writer import WriterLock

lock, turns = WriterLock(Path(sys.argv[1])), open(sys.argv[2], "ab", buffering=0)

async def write():
    while True:
        await lock.acquire("one of many")
        turns.write(b".")
        time.sleep(0.001)
        lock.release()

async def main():
    await asyncio.gather(*(write() for _ in range(4)))

threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


async def test_a_writer_has_its_turn_despite_a_process_that_writes_continuously(file: Path) -> None:
    turns = file.with_name("turns")
    with holding(NEVER_STOPPING, str(file), str(turns)):
        lock, between = WriterLock(file), list[int]()
        for _ in range(60):
            before = turns.stat().st_size
            await lock.acquire("another")
            between.append(turns.stat().st_size - before)
            lock.release()
    assert max(between) < 80, between  # about 20 in the time that a process may keep the file; a returning writer waits


@pytest.mark.parametrize("timeout", [0.5, 30.0])
async def test_a_process_that_is_frozen_while_it_waits_does_not_keep_others_from_writing(file: Path, timeout: float):
    """Others wait for it once, and then ignore it for a while."""
    lock = WriterLock(file, timeout=timeout)
    with FileLock(f"{file}.turnstile", thread_local=False):
        await lock.acquire("first")
        lock.release()
        async with asyncio.timeout(2):
            for _ in range(50):
                await lock.acquire("one of many")
                lock.release()


async def test_a_cancelled_wait_in_the_turnstile_does_not_block_the_others(file: Path) -> None:
    first, second, third = WriterLock(file), WriterLock(file), WriterLock(file)
    await first.acquire("first")
    waiting = asyncio.create_task(second.acquire("second"))
    await asyncio.sleep(0)
    with pytest.raises(Timeout):
        FileLock(f"{file}.turnstile", thread_local=False).acquire(blocking=False)
    waiting.cancel()
    await asyncio.wait([waiting])
    with FileLock(f"{file}.turnstile", thread_local=False).acquire(blocking=False):
        first.release()
    await third.acquire("third")
    third.release()
    await second.acquire("second")
    second.release()


async def test_a_process_keeps_the_file_for_its_own_writers_for_a_short_time(file: Path) -> None:
    now = [0.0]
    lock, other = WriterLock(file, clock=lambda: now[0]), FileLock(f"{file}.writer", thread_local=False)
    async with asyncio.timeout(10):
        await lock.acquire("first")
        waiting = [asyncio.create_task(lock.acquire(number)) for number in range(2)]
        await asyncio.sleep(0)
        lock.release()
        with pytest.raises(Timeout):
            other.acquire(blocking=False)
        await waiting[0]
        now[0] = 1.0
        lock.release()
        other.acquire(blocking=False)
        assert not (await asyncio.wait(waiting[1:], timeout=0.05))[0]
        other.release()
        await waiting[1]
        lock.release()
        other.acquire(blocking=False)
        other.release()


async def test_a_file_kept_for_a_cancelled_writer_is_released(file: Path) -> None:
    lock = WriterLock(file, clock=lambda: 0.0)
    await lock.acquire("first")
    waiting = asyncio.create_task(lock.acquire("second"))
    await asyncio.sleep(0)
    lock.release()
    with pytest.raises(Timeout):
        FileLock(f"{file}.writer", thread_local=False).acquire(blocking=False)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    with FileLock(f"{file}.writer", thread_local=False).acquire(blocking=False):
        pass
    await lock.acquire("third")
    lock.release()
