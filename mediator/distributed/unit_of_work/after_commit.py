"""AfterCommitQueue: the calls to make after the commit of a transaction. A rollback drops the calls."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from mediator.distributed import failpoints
from mediator.distributed.shield import is_own_cancellation
from mediator.errors import AfterCommitError, CommittedError
from mediator.strategies import is_failure

_LONGEST_CHAIN = 20
"""How many errors are examined in a chain of `__cause__`."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    message: object
    call: Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class AfterCommitQueue:
    """The calls that wait for a commit, in the order in which the calls will be made."""

    _waiting: list[_Waiting] = field(default_factory=list[_Waiting])

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, message: object, call: Callable[[], Awaitable[Any]]) -> None:
        """Add a call."""
        self._waiting.append(_Waiting(message, call))

    def drop(self, mark: int) -> None:
        """Drop all calls after the first `mark` calls."""
        del self._waiting[mark:]

    async def run(
        self,
        transaction_id: str,
        message: object,
        response: Any,
        deliver: Coroutine[Any, Any, None] | None,
        *,
        timeout: float,  # noqa: ASYNC109  # the bound is part of the promise
        errors: list[BaseException],
    ) -> None:
        """Deliver the events of the transaction with `deliver`, and then make all calls, even if a call fails.

        `deliver` is `None` when there is nothing to deliver, for example because the events are in the outbox.
        `deliver` has to limit its own duration; all calls together may take `timeout` seconds. `errors` holds the
        errors since the commit, and gets all further errors.

        Raises:
            AfterCommitError: A call failed or did not end in time, or there are several errors.
            CommittedError: No call failed, and `errors` has only one error. The caller gave it, or `deliver` raised it.
        """
        if deliver is not None:
            try:
                await deliver
            except (Exception, asyncio.CancelledError) as error:  # collected: the calls are still made
                if is_own_cancellation(error):
                    raise
                errors.append(error)
        before = len(errors)
        failed = await self._call_all(errors, timeout)
        if failed or len(errors) > before or before > 1:
            raise AfterCommitError(transaction_id, response, failed, errors, message=message) from errors[0]
        for only in errors:
            if isinstance(only, CommittedError) and only.transaction_id == transaction_id:
                raise only
            raise CommittedError(transaction_id, response, message=message) from only

    async def _call_all(self, errors: list[BaseException], timeout: float) -> Sequence[object]:  # noqa: ASYNC109
        failed: list[object] = []
        try:
            async with asyncio.timeout(timeout):
                while self._waiting:
                    await self._call_first(failed, errors)
        except TimeoutError:
            text = f"the calls after the commit did not end within {timeout:g} s (after_commit_timeout)"
            errors.append(TimeoutError(text))
            failed += [waiting.message for waiting in self._waiting]
        return failed

    async def _call_first(self, failed: list[object], errors: list[BaseException]) -> None:
        waiting = self._waiting[0]
        try:
            await failpoints.reach("after_commit.before_call")
            await waiting.call()
        except BaseException as error:
            own = is_own_cancellation(error)  # cancelled by the time limit or by the caller
            if own and not _has_committed(error, waiting.message):
                raise
            if not (is_failure(error) or isinstance(error, asyncio.CancelledError)):
                raise
            del self._waiting[0]
            failed += _not_committed(error, waiting.message)
            errors += _errors_of(error, waiting.message)  # collected: the next calls are still made
            if own:
                raise
        else:
            del self._waiting[0]
        try:
            await failpoints.reach("after_commit.after_call")
        except Exception as error:
            errors.append(error)


def _own(error: BaseException, message: object) -> CommittedError | None:
    """Find the error, in the chain of `error` and its causes, that says that the handlers of `message` have committed.

    Return `None` if there is none. An `AfterCommitError` is preferred, because it lists notifications and errors.
    """
    found: CommittedError | None = None
    each: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if isinstance(each, CommittedError) and each.message is message:
            if isinstance(each, AfterCommitError):
                return each
            found = found or each
        if each is None:
            break
        each = each.__cause__
    return found


def _grouped(error: BaseException) -> tuple[BaseException, ...]:
    """Return the errors in an exception group; an empty tuple when the error is not a group."""
    is_group = issubclass(type(error), BaseExceptionGroup)
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ()) if is_group else ()
    return inner


def _has_committed(error: BaseException, message: object) -> bool:
    """Return whether the handlers of `message` had committed before `error` was raised.

    An exception group holds the errors of handlers that commit separately. For a group, return whether all these
    handlers have committed.
    """
    if grouped := _grouped(error):
        return all(_has_committed(each, message) for each in grouped)
    return _own(error, message) is not None


def _not_committed(error: BaseException, message: object) -> list[object]:
    """Return the notifications to publish again after the call for `message` has raised `error`.

    `message` is one of them, unless its handlers have committed. Its handlers may have added notifications to publish
    after their own commit. Each of these notifications that failed has to be published again too.
    """
    itself = [] if _has_committed(error, message) else [message]
    return [*itself, *_following(error, message)]


def _following(error: BaseException, message: object) -> list[object]:
    if grouped := _grouped(error):
        return [each for inner in grouped for each in _following(inner, message)]
    own = _own(error, message)
    return list(own.notifications) if isinstance(own, AfterCommitError) else []


def _errors_of(error: BaseException, message: object) -> list[BaseException]:
    """Return the errors of a failed call. An `AfterCommitError` is replaced by the errors that it collects."""
    own = _own(error, message)
    if not isinstance(own, AfterCommitError):
        return [error]
    raised_in_place = error is not own and not isinstance(error, asyncio.CancelledError)
    cause = own.__cause__ if all(own.__cause__ is not each for each in own.errors) else None
    return [*own.errors, *([error] if raised_in_place else []), *([cause] if cause is not None else [])]
