"""Reference: what the mediator promises about order, scopes and transactions, as the simplest code that does it.

Nothing in it runs at the same time: of handlers that do, only the order within each one is compared.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mediator import Concurrent, Notification, TransactionMode
from mediator.errors import AfterCommitError, ConcurrentPublishError, UnitOfWorkRolledBackError
from mediator.strategies import raise_collected
from tests.contracts.model.program import Ask, Behavior, Scripted, Work, behave, perform

Go = Callable[[], Awaitable[Any]]


@dataclass
class Level:
    """What a transaction, or one since its savepoint, would commit."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    waiting: list[Scripted] = field(default_factory=list)
    doom: BaseException | None = None


@dataclass(eq=False)
class ReferenceScope:
    """A scope, with the levels of its transaction while one runs."""

    transactional: bool = True
    levels: list[Level] | None = None


class Strand:
    """What runs one after the other: a program, or one of handlers that run at the same time."""

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
        self._scope: ReferenceScope | None = None
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
        try:
            if levels is not None and mode is TransactionMode.NESTED:
                response = await self._nested(levels, message)
            else:
                response = await self._outside(message)
        except BaseException as error:
            if levels is not None and mode is TransactionMode.DEFAULT and not isinstance(message, Ask):
                levels[-1].doom = levels[-1].doom or error
            raise
        finally:
            self._scope = outer
        return None if isinstance(message, Notification) else response

    # What it means.

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
        levels = scope.levels = [Level()]
        try:
            response = await go()
        finally:
            scope.levels = None
        (level,) = levels
        _raise_doom(level)
        self.committed += level.rows
        await self._after_commit(level.waiting)
        return response

    async def _after_commit(self, waiting: Sequence[Scripted]) -> None:
        strand, errors = self._strand, list[BaseException]()
        strand.shields += 1
        for message in waiting:
            await self._collect(lambda each=message: self.dispatch(each, TransactionMode.NEW), errors)
        strand.shields -= 1
        if strand.cancelled and not strand.shields:
            raise asyncio.CancelledError
        if errors:
            raise AfterCommitError("", None, (), errors)

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
            raise ConcurrentPublishError(message)
        for number, work in enumerate(message.works):
            self._scope, self._strand = ReferenceScope(scope.transactional), Strand(work.label)
            await self._collect(lambda at=number: self._transaction(lambda: self._handler(message, at)), errors)
        self._scope, self._strand = scope, strand
        raise_collected(errors, message)

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


def _raise_doom(level: Level) -> None:
    if level.doom is not None:
        raise UnitOfWorkRolledBackError("", None, level.doom) from level.doom
