"""Reference: the events that a command must leave, and the invariants of streams, effects and parked events."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mediator import TransactionMode
from tests.contracts.model_events.script import Add, Do, ScriptedError, adds

Transaction = list[Add]


@dataclass
class _Level:
    """The part of a transaction since a savepoint, or since its beginning."""

    doomed: bool = False


class _RolledBackError(Exception):
    pass


def transactions(command: Do) -> list[Transaction]:
    """Return the events of each committed transaction, in the order of commits, if only the script raises errors."""
    committed: list[Transaction] = []
    _begin(command, committed)
    return [events for events in committed if events]


def _begin(command: Do, committed: list[Transaction]) -> bool:
    events: Transaction = []
    level = _Level()
    try:
        _run(command, events, level, committed)
    except (ScriptedError, _RolledBackError):
        return False
    if level.doomed:
        return False
    committed.append(events)
    return True


def _run(command: Do, events: Transaction, level: _Level, committed: list[Transaction]) -> None:
    for step in command.steps:
        if isinstance(step, Add):
            events.append(step)
            continue
        try:
            if step.mode is TransactionMode.NEW:
                if not _begin(step.command, committed):
                    raise _RolledBackError
            elif step.mode is TransactionMode.NESTED:
                _run_behind_savepoint(step.command, events, committed)
            else:
                _run_joined(step.command, events, level, committed)
        except (ScriptedError, _RolledBackError):
            if not step.forgiving:
                raise
    if command.fails:
        raise ScriptedError


def _run_joined(command: Do, events: Transaction, level: _Level, committed: list[Transaction]) -> None:
    try:
        _run(command, events, level, committed)
    except (ScriptedError, _RolledBackError):
        level.doomed = True
        raise


def _run_behind_savepoint(command: Do, events: Transaction, committed: list[Transaction]) -> None:
    mark, level = len(events), _Level()
    try:
        _run(command, events, level, committed)
        if level.doomed:
            raise _RolledBackError
    except (ScriptedError, _RolledBackError):
        del events[mark:]
        raise


@dataclass
class Seen:
    """The events in each place, by their numbers, in order.

    Attributes:
        rows: Committed by commands.
        stream: Events stored by the broker.
        applied: Events that the consumer applied.
        parked: Events that the consumer parked.
        placed: Waiting, delayed, archived and refused events, once for each place.
        archived: Events in the archive of the outbox.
        followed: Events that the consumer added and the broker stored.
        followed_placed: All events that the consumer added.
    """

    rows: Sequence[int]
    stream: Sequence[int]
    applied: Sequence[int]
    parked: Sequence[int]
    placed: Sequence[int]
    archived: Sequence[int]
    followed: Sequence[int]
    followed_placed: Sequence[int]


@dataclass
class Reference:
    """The knowledge of the model about each event.

    Attributes:
        ordered: Whether the consumer keeps the order of keys.
        events: The committed events by number, in the order of commits.
        withdrawn: The events that were cancelled, or discarded before they were sent.
        discarded: The events that were discarded after the consumer had received them.
    """

    ordered: bool
    events: dict[int, Add] = field(default_factory=dict)
    withdrawn: set[int] = field(default_factory=set)
    discarded: set[int] = field(default_factory=set)

    def note(self, command: Do, rows: Sequence[int], *, disturbed: bool) -> None:
        """Record and check the rows of a command. After a fault, whole transactions may be missing."""
        new = [number for number in rows if number not in self.events]
        expected = transactions(command)
        if disturbed:
            expected = [each for each in expected if each[0].number in new]
        assert new == [each.number for events in expected for each in events]
        known = {each.number: each for each in adds(command)}
        self.events |= {number: known[number] for number in new}

    def check(self, seen: Seen) -> None:
        """Check the invariants of any time."""
        assert list(seen.rows) == list(self.events)
        remaining = set(self.events) - self.withdrawn
        assert Counter(seen.placed) == Counter(remaining)
        for numbers in (seen.stream, seen.applied, seen.parked, seen.followed):
            assert len(numbers) == len(set(numbers))
        assert set(seen.archived) <= set(seen.stream) <= remaining
        assert set(seen.applied) | set(seen.parked) | self.discarded <= set(seen.stream)
        assert not set(seen.applied) & (set(seen.parked) | self.discarded)
        assert Counter(seen.followed_placed) == Counter(seen.applied)
        assert set(seen.followed) <= set(seen.applied)
        self._check_order(seen)

    def _check_order(self, seen: Seen) -> None:
        for key in {event.key for event in self.events.values()} - {None}:
            stored = self._of(key, seen.stream)
            at_once = [number for number in stored if self.events[number].delay is None]
            assert at_once == [number for number in self.events if number in set(at_once)]
            if not self.ordered:
                continue
            applied, parked = self._of(key, seen.applied), self._of(key, seen.parked)
            assert applied == [number for number in stored if number in set(applied)]
            assert parked == [number for number in stored if number in set(parked)]
            assert not parked or not applied or stored.index(applied[-1]) < stored.index(parked[0])
            assert self._of(key, seen.followed) == [number for number in applied if number in set(seen.followed)]

    def check_end(self, seen: Seen) -> None:
        """Check the invariants after all faults have ended and all workers are done."""
        self.check(seen)
        assert set(seen.stream) == set(self.events) - self.withdrawn
        assert set(seen.applied) | self.discarded == set(seen.stream)
        assert not seen.parked
        assert set(seen.followed) == set(seen.applied)

    def _of(self, key: str | None, numbers: Iterable[int]) -> list[int]:
        return [number for number in numbers if self.events[number].key == key]
