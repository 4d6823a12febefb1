"""Reference: the simplest code with the mediator's promises about order, scopes and transactions.

The code is not concurrent. For concurrent handlers, only the order within each handler is compared.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mediator import Concurrent, Notification, TransactionMode
from mediator.errors import AfterCommitError, CommittedError, RolledBackError, misuse
from mediator.strategies import raise_collected
from tests.contracts.model.program import Ask, Behavior, Scripted, Work, behave, perform

Go = Callable[[], Awaitable[Any]]


@dataclass
class Level:
    """The rows and events that would be committed by a transaction, or by the part since a savepoint."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    waiting: list[Scripted] = field(default_factory=list)
    doom: BaseException | None = None


@dataclass(eq=False)
class ReferenceScope:
    """A scope, with the levels of its transaction while one runs."""

    transactional: bool = True
    levels: list[Level] | None = None


class Dispatch:
    """The outcome of the transactions that one dispatch began, as the sender observes it."""

    def __init__(self, message: Scripted) -> None:
        self.message = message
        self.committed: str | None = None
        self._failure: BaseException | None = None

    def ended(self, committed: str | None = None, failure: BaseException | None = None) -> None:
        """Record the end of a transaction. A later rollback does not replace a commit."""
        if self.committed is None or committed is not None:
            self.committed, self._failure = committed, failure

    def check(self) -> None:
        """Check that no response is returned for a transaction that was rolled back."""
        if self.committed is None and self._failure is not None:
            raise RolledBackError("", None, self._failure) from self._failure

    def raise_with_outcome(self, error: BaseException) -> None:
        """Raise an error, which reports the commit if the transaction has committed."""
        if self.committed is None:
            return
        if isinstance(error, asyncio.CancelledError):
            if not isinstance(error.__cause__, CommittedError):
                reported = CommittedError(self.committed, None, message=self.message)
                reported.__cause__ = error.__cause__
                raise error from reported
        elif not isinstance(error, CommittedError) or error.transaction_id != self.committed:
            raise self._with_outcome(error) from error

    def _with_outcome(self, error: BaseException) -> CommittedError:
        assert self.committed is not None
        before: BaseException | None = error
        while before is not None:
            if isinstance(before, AfterCommitError) and before.transaction_id == self.committed:
                return AfterCommitError(self.committed, None, (), before.errors, message=self.message)
            before = before.__cause__ or before.__context__
        return CommittedError(self.committed, None, message=self.message)


class Strand:
    """A sequence of steps: a program, or one of several concurrent handlers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shields = 0
        self.cancelled = False


class Reference:
    """A `World` without the library."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str, Any]] = []
        self.committed: list[tuple[str, str]] = []
        self.built = 0
        self._counts: Counter[str] = Counter()
        self._transactions = 0
        self._scope: ReferenceScope | None = None
        self._dispatch: Dispatch | None = None
        self._strand = Strand("")

    async def run(self, name: str, message: Scripted) -> Any:
        self._strand, self._scope = Strand(name), None
        return await self.dispatch(message, TransactionMode.DEFAULT)

    # The world of a program.

    def note(self, text: str) -> None:
        self.notes.append((self._strand.name, text, self._scope))

    async def cancel(self) -> None:
        if not self._strand.shields:
            raise asyncio.CancelledError
        self._strand.cancelled = True

    def write(self, label: str) -> bool:
        self._counts[label] += 1
        if self._levels is None:
            return False
        self._levels[-1].rows.append((self._strand.name, f"{label}#{self._counts[label]}"))
        return True

    def after_commit(self, message: Scripted) -> bool:
        if self._levels is None:
            return False
        self._levels[-1].waiting.append(message)
        return True

    async def dispatch(self, message: Scripted, mode: TransactionMode) -> Any:
        outer = self._scope
        joins = outer is not None and mode in (TransactionMode.DEFAULT, TransactionMode.NESTED)
        self._scope = scope = outer if joins else ReferenceScope(mode is not TransactionMode.SUPPRESS)
        levels = scope.levels
        around, self._dispatch = self._dispatch, Dispatch(message)
        dispatch = self._dispatch
        try:
            if levels is not None and mode is TransactionMode.NESTED:
                response = await self._nested(levels, message)
            else:
                response = await self._outside(message)
            dispatch.check()
        except BaseException as error:
            if levels is not None and mode is TransactionMode.DEFAULT and not isinstance(message, Ask):
                levels[-1].doom = levels[-1].doom or error
            dispatch.raise_with_outcome(error)
            raise
        finally:
            self._scope, self._dispatch = outer, around
        return None if isinstance(message, Notification) else response

    # The meaning of the steps.

    @property
    def _levels(self) -> list[Level] | None:
        return self._scope.levels if self._scope is not None else None

    async def _nested(self, levels: list[Level], message: Scripted) -> Any:
        levels.append(Level())
        try:
            response = await self._outside(message)
            _raise_doom(levels[-1])
        except BaseException:
            levels.pop()
            raise
        level = levels.pop()
        levels[-1].rows += level.rows
        levels[-1].waiting += level.waiting
        return response

    async def _outside(self, message: Scripted) -> Any:
        strategy = message.strategy
        apart = isinstance(message, Notification) and isinstance(strategy, Concurrent)

        async def inside(now: Scripted) -> Any:
            return await self._around(
                now, now.inside, f"{now.label} inside", lambda last: self._innermost(last, strategy)
            )

        async def then(now: Scripted) -> Any:
            if isinstance(now, Ask) or apart:
                return await inside(now)
            return await self._transaction(lambda: inside(now))

        return await self._around(message, message.outside, f"{message.label} outside", then)

    async def _around(
        self, message: Scripted, behavior: Behavior, place: str, inner: Callable[[Scripted], Awaitable[Any]]
    ) -> Any:
        return await behave(self.note, behavior, place, lambda now=message: inner(now))

    async def _transaction(self, go: Go) -> Any:
        scope = self._scope
        assert scope is not None
        if scope.levels is not None or not scope.transactional:
            return await go()
        dispatch = self._dispatch
        assert dispatch is not None
        levels = scope.levels = [Level()]
        try:
            response = await self._rolled_back_by_errors(scope, levels, go)
        except BaseException as error:
            dispatch.ended(failure=error)
            raise
        (level,) = levels
        self.committed += level.rows
        self._transactions += 1
        transaction_id = str(self._transactions)
        dispatch.ended(committed=transaction_id)
        await self._after_commit(transaction_id, dispatch.message, level.waiting)
        return response

    async def _rolled_back_by_errors(self, scope: ReferenceScope, levels: list[Level], go: Go) -> Any:
        try:
            response = await go()
            _raise_doom(levels[0])
        except CommittedError as error:  # the error is about another transaction
            raise RolledBackError("", None, error) from error
        finally:
            scope.levels = None
        return response

    async def _after_commit(self, transaction_id: str, begun_for: Scripted, waiting: Sequence[Scripted]) -> None:
        strand, errors = self._strand, list[BaseException]()
        strand.shields += 1
        for message in waiting:
            failed: list[BaseException] = []
            await self._collect(lambda each=message: self.dispatch(each, TransactionMode.NEW), failed)
            for error in failed:
                errors += _without_what_gathers(error, message)
        strand.shields -= 1
        reported = AfterCommitError(transaction_id, None, (), errors, message=begun_for) if errors else None
        if reported is not None:
            reported.__cause__ = errors[0]
        if strand.cancelled and not strand.shields:
            raise asyncio.CancelledError from reported
        if reported is not None:
            raise reported

    async def _innermost(self, message: Scripted, strategy: Any) -> Any:
        if not isinstance(message, Notification):
            return await self._handle(message.works[0])
        if isinstance(strategy, Concurrent):
            return await self._at_the_same_time(message)
        errors: list[BaseException] = []
        for number in range(len(message.works)):
            try:
                await self._handler(message, number)
            except Exception as error:
                if strategy.on_error == "stop":
                    raise
                errors.append(error)
        return raise_collected(errors, message)

    async def _at_the_same_time(self, message: Scripted) -> None:
        scope, strand, errors = self._scope, self._strand, list[BaseException]()
        assert scope is not None
        if scope.levels is not None:
            raise misuse.concurrent_publish(message)
        for number, work in enumerate(message.works):
            self._scope, self._strand = ReferenceScope(scope.transactional), Strand(work.label)
            await self._collect(lambda at=number: self._in_its_own_scope(message, at), errors)
        self._scope, self._strand = scope, strand
        raise_collected(errors, message)

    async def _in_its_own_scope(self, message: Scripted, number: int) -> None:
        around, self._dispatch = self._dispatch, Dispatch(message)
        dispatch = self._dispatch
        try:
            await self._transaction(lambda: self._handler(message, number))
            dispatch.check()
        except BaseException as error:
            dispatch.raise_with_outcome(error)
            raise
        finally:
            self._dispatch = around

    async def _handler(self, message: Scripted, number: int) -> Any:
        around = message.works[number].around
        place = f"around {message.works[number].label}"
        return await self._around(message, around, place, lambda now: self._handle(now.works[number]))

    async def _handle(self, work: Work) -> str:
        self.built += 1
        return await perform(self, work)

    async def _collect(self, go: Go, errors: list[BaseException]) -> None:
        scope = self._scope
        try:
            await go()
        except BaseException as error:
            errors.append(error)
        self._scope = scope


def _without_what_gathers(error: BaseException, message: Scripted) -> list[BaseException]:
    """Return the failures of a notification and of its after-commit calls, without the errors that group them."""
    own: BaseException | None = error
    while own is not None and not (isinstance(own, AfterCommitError) and own.message is message):
        own = own.__cause__
    if not isinstance(own, AfterCommitError):
        return [error]
    in_its_place = [] if own is error or isinstance(error, asyncio.CancelledError) else [error]
    cause = own.__cause__
    return [*own.errors, *in_its_place, *([cause] if cause is not None and cause not in own.errors else [])]


def _raise_doom(level: Level) -> None:
    if level.doom is not None:
        raise RolledBackError("", None, level.doom) from level.doom
