"""FakeTransaction: a transaction that only records the calls of its scope, and the behavior that begins it."""

from collections.abc import AsyncIterator
from typing import Any

from mediator import Command, Notification, PipelineBehavior, current_scope
from mediator.blocks import asynccontextmanager
from mediator.errors.root import name_of


class FakeTransaction:
    """Records the calls of the scope."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def doom(self, message: object, error: BaseException, /) -> None:
        self.log.append(f"doomed by {name_of(message)}: {type(error).__name__}")

    def after_commit(self, message: object, _call: Any, /) -> None:
        self.log.append(f"after the commit: {name_of(message)}")

    @asynccontextmanager
    async def savepoint(self, message: object, /) -> AsyncIterator[None]:
        self.log.append(f"savepoint for {name_of(message)}")
        try:
            yield
        except BaseException:
            self.log.append("rolled back to savepoint")
            raise
        self.log.append("released savepoint")


class Transactional(PipelineBehavior[Command[Any] | Notification, Any]):
    """Begins a `FakeTransaction` if none runs and the mode allows one. `begun` has all transactions it began."""

    per_scope = True

    def __init__(self) -> None:
        self.begun: list[FakeTransaction] = []

    async def handle(self, message: Any, call_next: Any, /) -> Any:
        scope = current_scope()
        if scope.transaction is not None or not scope.transactional:
            return await call_next()
        scope.transaction = FakeTransaction()
        self.begun.append(scope.transaction)
        try:
            return await call_next()
        finally:
            scope.transaction = None
