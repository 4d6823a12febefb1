"""DetachedObjects: tracks objects that a session loaded in earlier transactions, and refreshes them before a write.

When a transaction begins, the session detaches all its objects. A query or `session.get()` then returns a new object
with the values in the database, and the old object stays readable. When an old object is changed or deleted, or when a
new object refers to an old object, the session attaches and refreshes the old object. If the old object was changed
or deleted, the refresh compares the row with the values that the old object was loaded with. If the values differ,
another transaction has written the row, and a `StaleObjectError` is raised.
"""

from collections.abc import Generator, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from sqlalchemy import Column, inspect
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.orm import ColumnProperty, InstanceState, Mapper, PassiveFlag, RelationshipProperty, Session
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.base import NO_VALUE
from sqlalchemy.orm.collections import collection_adapter
from sqlalchemy.util.concurrency import in_greenlet

from mediator.blocks import contextmanager
from mediator.errors import misuse

_QUERIES = ("dynamic", "write_only")
"""A relationship with one of these loading strategies is only queried, and holds no objects in memory."""
_NOT_READ = (*_QUERIES, "raise", "raise_on_sql", "noload")
"""`Session.refresh` does not load relationships with these loading strategies, even if their names are given."""

_CHANGEABLE: tuple[type, ...] = (dict, list, set, MutableBase)
"""Types of values that can be changed in place."""

State = InstanceState[Any]


@dataclass(frozen=True, slots=True)
class _Returned:
    """A detached object that was attached again, and the values that the object was loaded with."""

    entity: object
    loaded: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of one attribute.

    A collection gained the objects `added`, and lost the objects `removed`. Any other attribute was set to `value`.
    """

    key: str
    value: Any
    added: Sequence[Any] = ()
    removed: Sequence[Any] = ()
    collection: bool = False

    def apply(self, state: State, entity: object) -> None:
        """Apply the change to a refreshed object."""
        if not self.collection:
            self._set(state, entity)
            return
        adapter = collection_adapter(state.dict[self.key])
        present = list(adapter)
        for item in self.removed:
            if item in present:
                adapter.remove_with_event(item)
        for item in self.added:
            if item not in present:
                adapter.append_with_event(item)

    def _set(self, state: State, entity: object) -> None:
        if self.key in state.mapper.relationships:
            setattr(entity, self.key, self.value)
            return
        # Validators and listeners must not be called again, since the value is already their result.
        noting: Any = state
        noting._modified_event(state.dict, state.manager[self.key].impl, state.dict.get(self.key, NO_VALUE))  # noqa: SLF001
        state.dict[self.key] = self.value


class DetachedObjects:
    """The objects that a session detached when a transaction began.

    `letting_go` is true while this class detaches objects, so that the unit of work keeps tracking detached aggregates.
    """

    def __init__(self, session: Session) -> None:
        self.letting_go: bool = False
        self._session = session
        # The keys are states, since a state shows a change even after its object was garbage-collected.
        self._states: dict[State, dict[str, Any]] = {}
        self._deleted: set[State] = set()
        self._returned: dict[State, _Returned] = {}
        self._back: dict[State, _Returned] = {}
        self._reading = False

    def let_go(self) -> None:
        """Detach all objects of the session and track them. No object may have unwritten changes."""
        self._states = {
            state: copies for state, copies in self._states.items() if state.modified or state.obj() is not None
        }
        self._returned.clear()
        self._back.clear()
        held = self._session.identity_map.all_states()
        if not held:
            return
        with self._letting_go():
            self._session.expunge_all()
        self._states.update((state, _copies(state)) for state in held)

    @contextmanager
    def _letting_go(self) -> Generator[None, None, None]:
        self.letting_go = True
        try:
            yield
        finally:
            self.letting_go = False

    def note_deletion(self, entity: object) -> None:
        """Remember that the row of an object was deleted."""
        self._deleted.add(_state_of(entity))

    def take_deleted(self) -> None:
        """Track the objects whose rows were deleted, to notice later changes. Called after the transaction has ended."""
        gone, self._deleted = self._deleted, set()
        for state in gone:
            entity = state.obj()
            if state.was_deleted and entity is not None and not self._session.is_modified(entity):
                self._states[state] = {}

    def __contains__(self, entity: object) -> bool:
        return bool(self._states) and _state_of(entity) in self._states

    def changed(self) -> Iterator[State]:
        """Yield the states of the detached objects that have unwritten changes."""
        for state in self._states:
            if not state.modified:
                continue
            entity = state.obj()
            if entity is None or self._session.is_modified(entity):
                yield state

    def undo_changes(self) -> None:
        """Reset changed objects to the values that they were loaded with. Called after a rollback."""
        for state in list(self.changed()):
            entity = state.obj()
            if entity is None:
                del self._states[state]
                continue
            copies = self._states[state]
            for key in {*state.committed_state, *copies}:
                value = deepcopy(copies[key]) if key in copies else _loaded(state, key)
                if value is NO_VALUE:
                    state.dict.pop(key, None)
                    state.expired_attributes.add(key)
                else:
                    set_committed_value(entity, key, value)
                state.committed_state.pop(key, None)

    def undo_returns(self) -> None:
        """Detach the objects that were attached again, and reset them to the values that they were loaded with.

        Called after the rollback of the transaction in which the objects were attached.
        """
        self._returned.clear()
        back, self._back = self._back, {}
        for state, returned in back.items():
            if returned.entity in self._session:
                with self._letting_go():
                    self._session.expunge(returned.entity)
                for key, value in returned.loaded.items():
                    set_committed_value(returned.entity, key, value)
                self._states[state] = _copies(state)

    def mark(self) -> WeakSet[State]:
        """Return the states of the objects that the session holds now, for `expire_since`."""
        return WeakSet(self._session.identity_map.all_states())

    def expire_since(self, mark: WeakSet[State]) -> None:
        """Expire the objects that the session loaded after `mark()`, since their changes were rolled back."""
        for state in self._session.identity_map.all_states():
            entity = state.obj()
            if entity is not None and state not in mark:
                # Without names, `expire` would also expire related objects and discard their changes.
                self._session.expire(entity, [key for key in state.dict if key in state.mapper.attrs])
                state.expired = True

    def check_return(self, entity: object) -> None:
        """Raise a `StaleObjectError` if the session has loaded the row of a detached object as another object."""
        state = _state_of(entity)
        if state in self._states and state.key and self._session.identity_map.get(state.key) not in (None, entity):
            reason = "this transaction has already loaded the same row as another object"
            raise misuse.stale_object(type(entity), reason)

    def note_return(self, entity: object) -> None:
        """Record that an object was attached again, so that the object is refreshed before the next query.

        An object that `let_go` has not detached is ignored.
        """
        state = _state_of(entity)
        copies = self._states.pop(state, None)
        if copies is None:
            return
        loaded = {key: _loaded(state, key) for key in (*_columns(state.mapper), *state.mapper.relationships.keys())}
        loaded = {key: value for key, value in loaded.items() if value is not NO_VALUE} | copies
        self._returned[state] = self._back[state] = _Returned(entity, loaded)
        unchanged = [each.key for each in state.mapper.relationships if not _history(state, each.key).has_changes()]
        unchanged = [key for key in unchanged if key in state.dict]
        if unchanged:  # without this, SQLAlchemy would also attach the objects in these relationships
            self._session.expire(entity, unchanged)

    def forget_return(self, entity: object) -> None:
        """Delete the record of `note_return`, because the caller refreshes the object."""
        self._returned.pop(_state_of(entity), None)

    def take_changed_back(self) -> None:
        """Attach the changed objects again, so that the changes are written.

        A `StaleObjectError` is raised in three cases: a row was deleted, a row was loaded as another object, or a
        changed object was garbage-collected.
        """
        for state in list(self.changed()):
            entity = state.obj()
            if entity is None:
                del self._states[state]
                raise misuse.stale_object(state.class_, "the changed object was garbage-collected")
            if state.was_deleted:
                raise misuse.stale_object(state.class_, "its row was deleted")
            self._session.add(entity)

    def read_anew(self) -> None:
        """Refresh all objects that were attached again, and reapply their changes.

        Raises:
            StaleObjectError: The row of a changed or deleted object has new values. Or a row is gone. Or the refresh
                would need I/O outside SQLAlchemy's greenlet.
        """
        if not self._returned or self._reading:
            return
        if not in_greenlet():
            cls = next(iter(self._returned)).class_
            reason = "the session attached the object again and must refresh it first: call `await session.flush()`"
            raise misuse.stale_object(cls, reason)
        self._reading = True
        try:
            with self._session.no_autoflush:
                while self._returned:
                    state, returned = next(iter(self._returned.items()))
                    self._read_one(state, returned)
                    self._returned.pop(state, None)
        finally:
            self._reading = False

    def _read_one(self, state: State, returned: _Returned) -> None:
        entity, mapper = returned.entity, state.mapper
        if entity not in self._session:
            return
        deleted = entity in self._session.deleted
        changes = list(_changes(state))
        names = [each.key for each in mapper.column_attrs if each.key in state.dict and _is_read(each)]
        names += [each.key for each in mapper.relationships if each.key in returned.loaded and _is_read(each)]
        try:
            Session.refresh(self._session, entity, names or None)
        except InvalidRequestError as error:
            raise misuse.stale_object(state.class_, "its row is gone") from error
        if changes or deleted:
            self._compare(state, {key: value for key, value in returned.loaded.items() if key in names})
        for change in changes:
            change.apply(state, entity)

    def _compare(self, state: State, loaded: dict[str, Any]) -> None:
        different = [key for key, value in loaded.items() if not self._is_same(state, key, value)]
        if different:
            raise misuse.stale_object(state.class_, f"the database holds other values now: {', '.join(different)}")

    def _is_same(self, state: State, key: str, before: Any) -> bool:
        if key in state.mapper.relationships:
            return _identities(before) == _identities(_loaded(state, key))
        kind: Any = state.mapper.column_attrs[key].columns[0].type
        now = state.dict.get(key)
        if before is now or kind.compare_values(before, now):
            return True
        # The database may return a written value in another form. SQLite, for example, drops the zone of a time. The
        # driver gets the same parameter for both forms.
        dialect = self._session.get_bind().dialect
        process = kind.dialect_impl(dialect).bind_processor(dialect)
        return process is not None and bool(process(before) == process(now))


def _state_of(entity: object) -> State:
    state: State = inspect(entity)
    return state


def _columns(mapper: Mapper[Any]) -> list[str]:
    return [each.key for each in mapper.column_attrs if isinstance(each.columns[0], Column)]


def _is_read(attribute: ColumnProperty[Any] | RelationshipProperty[Any]) -> bool:
    """Return whether `Session.refresh(entity, [name])` loads the attribute with this name."""
    if isinstance(attribute, RelationshipProperty):
        return attribute.lazy not in _NOT_READ
    return isinstance(attribute.columns[0], Column) or ("query_expression", True) not in attribute.strategy_key


def _is_query(attribute: Any) -> bool:
    return isinstance(attribute, RelationshipProperty) and attribute.lazy in _QUERIES


def _history(state: State, key: str) -> Any:
    return state.get_history(key, PassiveFlag.PASSIVE_NO_INITIALIZE)


def _loaded(state: State, key: str) -> Any:
    """Return the value that an attribute was loaded with, even after a change; `NO_VALUE` if the value is unknown."""
    history = _history(state, key)
    values = list(history.non_added())
    attribute = state.mapper.attrs[key]
    if isinstance(attribute, RelationshipProperty) and attribute.uselist:
        return NO_VALUE if _is_query(attribute) or key not in state.dict else values
    return values[0] if values else NO_VALUE


def _copies(state: State) -> dict[str, Any]:
    """Return copies of the values that can be changed in place.

    When a value is changed in place, SQLAlchemy notices the change but does not keep the old value.
    """
    values = ((key, state.dict.get(key)) for key in _columns(state.mapper))
    return {key: deepcopy(value) for key, value in values if isinstance(value, _CHANGEABLE)}


def _identities(held: Any) -> set[Any]:
    """Return the identity keys of the objects that a relationship holds."""
    entities: Any = held if issubclass(type(held), list) else [held]
    return {_state_of(each).key for each in entities if each is not None}


def _changes(state: State) -> Iterator[_Change]:
    for attribute in state.mapper.attrs:
        if not isinstance(attribute, ColumnProperty | RelationshipProperty):
            continue  # a composite or a synonym changes together with its columns
        if _is_query(attribute):
            continue  # a refresh does not discard objects that were added to this relationship
        history = _history(state, attribute.key)
        if not history.has_changes():
            continue
        if isinstance(attribute, RelationshipProperty) and attribute.uselist:
            yield _Change(attribute.key, None, list(history.added), list(history.deleted), collection=True)
        else:
            yield _Change(attribute.key, state.dict.get(attribute.key))
