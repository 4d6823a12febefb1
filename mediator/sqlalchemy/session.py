"""OwnedSession: an SQLAlchemy session whose transaction belongs to a unit of work."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import InstanceState, ORMExecuteState, QueryContext, Session, SessionTransaction

from mediator.aggregates import AggregateRoot
from mediator.sqlalchemy.database import OWNER
from mediator.sqlalchemy.detached_objects import DetachedObjects

BUSY_SECONDS = 10.0
"""Seconds for which a forgotten task (see `when_idle`) can keep the session from ending its transaction."""

_CONCURRENT = "isce"  # https://docs.sqlalchemy.org/en/20/errors.html#error-isce


class SessionOwner(Protocol):
    """The methods of a unit of work that its session calls; see `SqlAlchemyUnitOfWork`."""

    def bind(self) -> Engine | Connection: ...

    def check_ownership(self, operation: str) -> None: ...

    def check_commit(self, nested: object) -> None: ...

    def check_writing(self) -> None: ...

    def doom(self, message: object, error: BaseException, /) -> None: ...

    def adopt(self, aggregate: AggregateRoot, /) -> None: ...

    def release(self, aggregate: AggregateRoot, /) -> None: ...


class OwnedSession(Session):
    """A session that uses the engine of its unit of work, and lets only the unit of work end the transaction.

    While a transaction runs, a handler can neither roll back the transaction nor close, reset or invalidate the
    session. The unit of work collects the events of an aggregate from the moment at which the aggregate is loaded or
    added until the aggregate leaves the session.

    Attributes:
        detached: The objects that the session loaded before the current transaction.
        outdated: Whether the transaction in which the session loaded its objects has ended.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.detached: DetachedObjects = DetachedObjects(self)
        self.outdated: bool = False

    def get_bind(self, *_args: Any, **_kwargs: Any) -> Engine | Connection:
        """Return the engine of the unit of work."""
        return _owner(self).bind()

    @property
    def unwritten(self) -> Sequence[str]:
        """The classes of the objects with unwritten changes, as texts such as `Order (new)` or `Order (changed)`."""
        found = [*self._unflushed(), *((state.class_, "changed") for state in self.detached.changed())]
        return list(dict.fromkeys(f"{cls.__name__} ({how})" for cls, how in found))

    def _unflushed(self) -> Iterator[tuple[type, str]]:
        for each in self.new:
            yield type(each), "new"
        for each in self.dirty:
            if self.is_modified(each):
                yield type(each), "changed"
        for each in self.deleted:
            yield type(each), "deleted"

    def end(self) -> None:
        """Mark the objects as outdated after the end of a transaction, so that the next transaction reloads them."""
        self.outdated = True
        self.detached.take_deleted()

    def let_go(self) -> None:
        """Detach all objects, so that queries and `get()` read the rows from the database again."""
        self.detached.let_go()
        self.outdated = False

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """Write all changes. Changed objects of earlier transactions are refreshed first.

        If a row has changed since its object was loaded, a `StaleObjectError` is raised.
        """
        if not self.outdated:
            self._read_anew(changed=True)
        super().flush(objects)

    def refresh(
        self, instance: object, attribute_names: Iterable[str] | None = None, with_for_update: Any = None
    ) -> None:
        """Refresh an object as `Session.refresh` does. An object of an earlier transaction is attached again first."""
        if instance in self.detached:
            self.prepare_reading(lazily=False)
            self.add(instance)
        if attribute_names is None:
            self.detached.forget_return(instance)
        self._read_anew()
        super().refresh(instance, attribute_names, with_for_update)

    def _merge(self, state: InstanceState[Any], *args: Any, **options: Any) -> Any:
        """Attach an object of an earlier transaction again. Merge any other object as `Session.merge` does.

        Merging an object of an earlier transaction would overwrite the row's newer values with the object's older
        values.
        """
        entity = state.obj()
        if entity is None or state.key is None or entity not in self.detached:
            merge: Any = super()
            return merge._merge(state, *args, **options)  # noqa: SLF001  # SQLAlchemy calls `_merge` for each object
        present = self.identity_map.get(state.key)
        if present is not None and not self.is_modified(entity):
            return present
        self.add(entity)
        self._read_anew()
        return entity

    def _identity_lookup(self, *args: Any, lazy_loaded_from: Any = None, **options: Any) -> Any:
        """Look up an object in the session for `get()` or a lazy load. No query is sent when the object is found.

        Outdated objects are detached first, so that `get()` does not return an outdated object.
        """
        self.prepare_reading(lazily=lazy_loaded_from is not None)
        lookup: Any = super()
        return lookup._identity_lookup(*args, lazy_loaded_from=lazy_loaded_from, **options)  # noqa: SLF001

    def prepare_reading(self, *, lazily: bool) -> None:
        """Prepare a query: detach outdated objects, and refresh the objects that were attached again.

        Nothing is detached while the session has unwritten objects. Nothing is detached before a lazy load, since the
        object whose attribute is loaded must stay in the session.
        """
        if self.outdated and not lazily and not any(self._unflushed()):
            self.let_go()
        self._read_anew()

    def _read_anew(self, *, changed: bool = False) -> None:
        try:
            if changed:
                self.detached.take_changed_back()
            self.detached.read_anew()
        except BaseException as error:
            _owner(self).doom("refreshing an object of an earlier transaction", error)
            raise

    def rollback(self) -> None:
        _owner(self).check_ownership("rollback")
        super().rollback()

    def close(self) -> None:
        _owner(self).check_ownership("close")
        super().close()

    def reset(self) -> None:
        _owner(self).check_ownership("reset")
        super().reset()

    def invalidate(self) -> None:
        _owner(self).check_ownership("invalidate")
        super().invalidate()


async def when_idle(end: Callable[[], Awaitable[None]]) -> None:
    """Call `end`, which ends the transaction of a session. While a forgotten task uses the session, repeat the call.

    A forgotten task is a task that a handler has started and not awaited.

    Raises:
        InvalidRequestError: The task has used the session for `BUSY_SECONDS`, or `end` raised this error for another
            reason.
    """
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


def _before_commit(session: OwnedSession) -> None:
    _owner(session).check_commit(session.get_nested_transaction())


def _before_flush(session: OwnedSession, _context: object, _objects: object) -> None:
    _owner(session).check_writing()


def _after_begin(session: OwnedSession, _transaction: SessionTransaction, connection: Connection) -> None:
    connection.info[OWNER] = weakref.ref(_owner(session))


def _before_execute(state: ORMExecuteState) -> None:
    session: Any = state.session
    session.prepare_reading(lazily=state.is_relationship_load or state.is_column_load)


def _before_attach(session: OwnedSession, entity: object) -> None:
    session.detached.check_return(entity)


def _after_return(session: OwnedSession, entity: object) -> None:
    session.detached.note_return(entity)


def _after_delete(session: OwnedSession, entity: object) -> None:
    session.detached.note_deletion(entity)


def _adopt(session: Session | None, entity: object) -> None:
    if isinstance(session, OwnedSession) and isinstance(entity, AggregateRoot):
        _owner(session).adopt(entity)


def _adopt_loaded(aggregate: AggregateRoot, context: QueryContext) -> None:
    _adopt(context.session, aggregate)


def _release(session: OwnedSession, entity: object) -> None:
    if isinstance(entity, AggregateRoot) and not session.detached.letting_go:
        _owner(session).release(entity)


event.listen(OwnedSession, "before_commit", _before_commit)
event.listen(OwnedSession, "before_flush", _before_flush)
event.listen(OwnedSession, "after_begin", _after_begin)
event.listen(OwnedSession, "do_orm_execute", _before_execute)
event.listen(OwnedSession, "before_attach", _before_attach)
event.listen(OwnedSession, "detached_to_persistent", _after_return)
event.listen(OwnedSession, "persistent_to_deleted", _after_delete)
event.listen(AggregateRoot, "load", _adopt_loaded, propagate=True)  # this does not slow down loading other classes
event.listen(OwnedSession, "after_attach", _adopt)
for _departure in ("pending_to_transient", "persistent_to_transient", "persistent_to_detached", "deleted_to_detached"):
    event.listen(OwnedSession, _departure, _release)
