"""Assumptions of `WriterLock` and the relay's lock file about filelock and the locks of the operating system."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from tests.assumptions.process import holding

pytestmark = pytest.mark.thorough("tests other libraries and servers, which a change here cannot break")

HOLD = """
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "app.db.writer")


def test_a_lock_of_another_process_cannot_be_acquired_until_that_process_is_killed(file: str):
    """The lock needs no lease and no cleanup: the next writer or relay can acquire it at once."""
    lock = FileLock(file, thread_local=False)
    with holding(HOLD, file):
        with pytest.raises(Timeout):
            lock.acquire(blocking=False)
        assert not lock.is_locked
    lock.acquire(blocking=False)
    lock.release()


def test_two_locks_on_one_file_in_one_process_exclude_each_other(file: str):
    """Two relays of one process, or two engines on one file, must exclude each other."""
    first, second = FileLock(file, thread_local=False), FileLock(file, thread_local=False)
    first.acquire(blocking=False)
    with pytest.raises(Timeout):
        second.acquire(blocking=False)
    first.release()
    second.acquire(blocking=False)
    second.release()


def test_a_lock_counts_its_acquisitions_and_is_free_after_as_many_releases(file: str):
    """`WriterLock` also holds an `asyncio.Lock`, because a file lock lets its owner acquire it twice."""
    lock = FileLock(file, thread_local=False)
    lock.acquire(blocking=False)
    lock.acquire(blocking=False)
    lock.release()
    assert lock.is_locked
    lock.release()
    assert not lock.is_locked


def test_a_lock_file_that_cannot_be_opened_is_an_os_error_and_no_timeout():
    """`WriterLock._try` catches `Timeout` first; every other `OSError` means that the file cannot be opened."""
    with pytest.raises(OSError) as caught:
        FileLock("/").acquire(blocking=False)
    assert not isinstance(caught.value, Timeout)


def test_a_lock_can_be_released_by_another_thread_when_it_is_not_bound_to_one(file: str):
    """The library passes `thread_local=False`, because the event loop of `BlockingMediator` may run in any thread."""
    lock = FileLock(file, thread_local=False)
    with ThreadPoolExecutor(1) as aside:
        aside.submit(lock.acquire, blocking=False).result()
        assert lock.is_locked
        lock.release()
    FileLock(file).acquire(blocking=False)
