"""ConnectionPool: SQLAlchemy's pool, with clear errors where it cannot give a connection."""

import weakref
from typing import Any

from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection

from mediator.errors import PoolExhaustedError, PoolTooSmallError
from mediator.scope import Scope, current_frame


class ConnectionPool(AsyncAdaptedQueuePool):
    """Waits for a connection no longer than allowed, and not at all when all are held by those who wait for the caller.

    A dispatch that opens another scope (`TransactionMode.NEW` or `SUPPRESS`) keeps its connection meanwhile. When such
    dispatches are nested as deep as the pool is large, the innermost would wait for the outer ones, and they for it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._held: weakref.WeakKeyDictionary[PoolProxiedConnection, Scope] = weakref.WeakKeyDictionary()

    def connect(self) -> PoolProxiedConnection:
        """Give a connection.

        Raises:
            PoolTooSmallError: All are held by the dispatches around this one.
            PoolExhaustedError: None was given back in time.
        """
        frame = current_frame()
        if self._is_exhausted() and self._holders_around() >= self._capacity():
            raise PoolTooSmallError(self._capacity())
        try:
            connection = super().connect()
        except PoolTimeoutError as error:
            raise PoolExhaustedError(self._capacity(), self.timeout()) from error
        if frame is not None:
            self._held[connection] = frame.scope
        return connection

    def _capacity(self) -> int:
        return self.size() + self._max_overflow

    def _is_exhausted(self) -> bool:
        return self._max_overflow >= 0 and self.checkedout() >= self._capacity()

    def _holders_around(self) -> int:
        """How many connections are held by scopes that enclose the current one."""
        frame = current_frame()
        around: set[Scope] = set()
        while frame is not None and frame.parent is not None:
            if frame.parent.scope is not frame.scope:
                around.add(frame.parent.scope)
            frame = frame.parent
        return sum(1 for connection, scope in self._held.items() if connection.is_valid and scope in around)
