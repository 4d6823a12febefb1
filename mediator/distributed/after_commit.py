"""AfterCommitQueue: the calls that wait for the commit of one transaction, and are dropped by its rollback."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from mediator.errors import AfterCommitError
from mediator.strategies import is_failure


@dataclass(frozen=True, slots=True)
class _Waiting:
    message: object
    call: Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class AfterCommitQueue:
    """First in, first out."""

    _waiting: list[_Waiting] = field(default_factory=list[_Waiting])

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, message: object, call: Callable[[], Awaitable[Any]]) -> None:
        """Let a call wait."""
        self._waiting.append(_Waiting(message, call))

    def drop(self, mark: int) -> None:
        """Forget what was added since there were `mark` calls."""
        del self._waiting[mark:]

    async def run(
        self,
        transaction_id: str,
        response: Any,
        deliver: Coroutine[Any, Any, None] | None,
        timeout: float,  # noqa: ASYNC109  # the bound is part of the promise
    ) -> None:
        """Deliver the events of the transaction, if that is done here, and then make every call, whatever fails.

        Args:
            transaction_id: Of the transaction that committed.
            response: What its command returned.
            deliver: Sends the events. It bounds itself in time.
            timeout: How long all calls together may take, in seconds.

        Raises:
            AfterCommitError: A call failed, or there was no time left for it.
            Exception: What `deliver` raised, if nothing else failed.
        """
        errors: list[BaseException] = []
        if deliver is not None:
            try:
                await deliver
            except Exception as error:  # collected: the calls are made all the same
                errors.append(error)
                if not self._waiting:
                    raise
        failed = await self._call_all(errors, timeout)
        if failed:
            raise AfterCommitError(transaction_id, response, failed, errors) from errors[0]
        if errors:
            raise errors[0]

    async def _call_all(self, errors: list[BaseException], timeout: float) -> Sequence[object]:  # noqa: ASYNC109
        failed: list[object] = []
        try:
            async with asyncio.timeout(timeout):
                while self._waiting:
                    if not await _succeeds(self._waiting[0], errors):
                        failed.append(self._waiting[0].message)
                    del self._waiting[0]
        except TimeoutError:
            errors.append(TimeoutError(f"after_commit_timeout: not done within {timeout:g} s"))
            failed += [waiting.message for waiting in self._waiting]
        return failed


async def _succeeds(waiting: _Waiting, errors: list[BaseException]) -> bool:
    try:
        await waiting.call()
    except asyncio.CancelledError as error:  # the handler's own, or that of the time limit
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        errors.append(error)
    except BaseException as error:
        if not is_failure(error):
            raise
        errors.append(error)  # collected: the next ones are called all the same
    else:
        return True
    return False
