"""OwnedSession: an SQLAlchemy session whose transaction belongs to a unit of work."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session

OWNER = "mediator_unit_of_work"
"""Under which name the session's `info` has its owner."""

BUSY_SECONDS = 10.0
"""How long a forgotten task may keep the session from ending its transaction, in seconds."""

_CONCURRENT = "isce"  # https://docs.sqlalchemy.org/en/20/errors.html#error-isce


class SessionOwner(Protocol):
    """What a session asks of the unit of work that it belongs to."""

    def bind(self) -> Engine | Connection:
        """What to connect to for the next statement."""
        ...

    def check_ownership(self, operation: str) -> None:
        """Raise unless it is the owner who ends the transaction."""
        ...

    def check_commit(self, nested: object) -> None:
        """Raise unless it is the owner who commits, or `nested` is a savepoint of the handler."""
        ...


class OwnedSession(Session):
    """A session that takes its connection from the unit of work, and leaves its transaction's end to it."""

    def get_bind(self, *_args: Any, **_kwargs: Any) -> Engine | Connection:
        """Ask the owner."""
        return _owner(self).bind()

    def rollback(self) -> None:
        """Refuse while a transaction runs; else see `Session.rollback`."""
        _owner(self).check_ownership("rollback")
        super().rollback()

    def close(self) -> None:
        """Refuse while a transaction runs; else see `Session.close`."""
        _owner(self).check_ownership("close")
        super().close()

    def reset(self) -> None:
        """Refuse while a transaction runs; else see `Session.reset`."""
        _owner(self).check_ownership("reset")
        super().reset()

    def invalidate(self) -> None:
        """Refuse while a transaction runs; else see `Session.invalidate`."""
        _owner(self).check_ownership("invalidate")
        super().invalidate()


async def when_idle(end: Callable[[], Awaitable[None]]) -> None:
    """End a session's transaction, once a forgotten task is out of the statement in which it gets a connection."""
    deadline = asyncio.get_running_loop().time() + BUSY_SECONDS
    while True:
        try:
            return await end()
        except InvalidRequestError as error:
            if error.code != _CONCURRENT or asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.01)


def _owner(session: Session) -> SessionOwner:
    owner: SessionOwner = session.info[OWNER]
    return owner


def _before_commit(session: Session) -> None:
    _owner(session).check_commit(session.get_nested_transaction())


event.listen(OwnedSession, "before_commit", _before_commit)
