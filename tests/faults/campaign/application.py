"""The applications of the campaign: a ledger tells what it booked, a keeper writes that down and tells of it in turn."""

import asyncio
import os
import signal
from dataclasses import dataclass
from typing import ClassVar

from sqlalchemy import text

from mediator import (
    CallNext,
    Command,
    DistributedEvent,
    DistributedEventBroker,
    DistributedEventHandler,
    Mediator,
    PipelineBehavior,
    RequestHandler,
    TimeoutBehavior,
    TransactionMode,
    current_delivery,
)
from mediator.sqlalchemy import SqlAlchemyUnitOfWork
from tests.faults.campaign.troubles import Journal, Unclosable, outcome_of


class RolledBackError(Exception):
    """Raised after the events of a command were added: nobody is ever to see them."""


@dataclass(frozen=True, slots=True)
class Booked(DistributedEvent):
    event_type: ClassVar[str] = "ledger.booked"
    key: str
    action: str = ""

    @property
    def partition_key(self) -> str:
        return self.key


@dataclass(frozen=True, slots=True)
class Noted(DistributedEvent):
    """Has no key: its order is not promised."""

    event_type: ClassVar[str] = "ledger.noted"
    action: str = ""


@dataclass(frozen=True, slots=True)
class Kept(DistributedEvent):
    """The keeper's answer to each `Booked`."""

    event_type: ClassVar[str] = "keeper.kept"
    key: str

    @property
    def partition_key(self) -> str:
        return self.key


@dataclass(frozen=True, slots=True)
class Book(Command[None]):
    """Does some steps in one transaction.

    Attributes:
        key: Of the events.
        name: Of the command: who sends it, and the how manieth it is.
        steps: See `BookHandler`.
        never: Whether nothing that it writes may ever be seen, since it or what is around it fails.
        action: What handlers of its events are to do.
        within: How long it may take, in seconds; it is cancelled then, and its sender told what became of it.
    """

    key: str
    name: str
    steps: tuple[str, ...]
    never: bool = False
    action: str = ""
    within: float | None = None


@dataclass(frozen=True, slots=True)
class Acknowledge(Command[None]):
    """Writes down that a command has succeeded: it must not be gone later."""

    name: str


class Within(PipelineBehavior[Book, None]):
    """Ends a command that takes longer than it says."""

    async def handle(self, command: Book, call_next: CallNext[None]) -> None:
        if command.within is None:
            await call_next()
        else:
            await TimeoutBehavior(command.within).handle(command, call_next)


class BookHandler(RequestHandler[Book, None]):
    """Writes down, in the same transaction, the id of each event: whoever checks later knows what was committed."""

    def __init__(
        self,
        unit_of_work: SqlAlchemyUnitOfWork,
        distributed_events: DistributedEventBroker,
        mediator: Mediator,
        journal: Journal,
        _unclosable: Unclosable,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._distributed_events = distributed_events
        self._mediator = mediator
        self._journal = journal

    async def handle(self, command: Book) -> None:
        for step in command.steps:
            await self._do(step, command)

    async def _do(self, step: str, command: Book) -> None:
        if step == "fail":
            raise RolledBackError
        if step == "pause":
            await asyncio.sleep(0.01)
        elif step == "event":
            await self._write(command, command.key, Booked(command.key, command.action))
        elif step == "note":
            await self._write(command, "", Noted(command.action))
        elif step == "update":
            update = text("UPDATE stock SET changes = changes + 1 WHERE key = :key")
            await self._unit_of_work.session.execute(update, {"key": command.key})
        else:
            await self._send(step, command)

    async def _write(self, command: Book, key: str, event: DistributedEvent) -> None:
        detail = f"{command.name} never" if command.never else command.name
        row = {"id": self._distributed_events.add(event), "key": key, "detail": detail}
        await self._unit_of_work.session.execute(
            text("INSERT INTO entries (id, key, detail) VALUES (:id, :key, :detail)"), row
        )

    async def _send(self, step: str, outer: Book) -> None:
        """`join`, `nest`, `new` and `suppress` send a command in that mode; behind `-fail`, one that fails in the end."""
        mode, _, fails = step.partition("-")
        never = bool(fails) or (outer.never and mode != "new")
        steps = () if mode == "suppress" else ("event", "note")
        inner = Book(outer.key, f"{outer.name}+{mode}", (*steps, *(("fail",) if fails else ())), never)
        try:
            await self._mediator.send(inner, mode=_MODES[mode])
        except BaseException as error:
            if mode == "new":
                self._journal.tell(inner.name, outcome_of(error))
            if mode == "join" or not isinstance(error, RolledBackError):
                raise
        else:
            if mode == "new":
                self._journal.tell(inner.name, "committed")


_MODES = {
    "join": TransactionMode.DEFAULT,
    "nest": TransactionMode.NESTED,
    "new": TransactionMode.NEW,
    "suppress": TransactionMode.SUPPRESS,
}


class AcknowledgeHandler(RequestHandler[Acknowledge, None]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def handle(self, command: Acknowledge) -> None:
        insert = text("INSERT INTO receipts (id, key, detail) VALUES (:name, '', '')")
        await self._unit_of_work.session.execute(insert, {"name": command.name})


class KeepBooked(DistributedEventHandler[Booked]):
    """Writes down the id of the event, and that of the one that it causes."""

    def __init__(
        self,
        unit_of_work: SqlAlchemyUnitOfWork,
        distributed_events: DistributedEventBroker,
        repaired: bool,
        _unclosable: Unclosable,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._distributed_events = distributed_events
        self._repaired = repaired

    async def handle(self, event: Booked) -> None:
        row = {"id": current_delivery().id, "key": event.key, "detail": self._distributed_events.add(Kept(event.key))}
        insert = text("INSERT INTO effects (id, key, detail) VALUES (:id, :key, :detail)")
        await self._unit_of_work.session.execute(insert, row)
        if not self._repaired:
            misbehave(event.action)


class AuditNoted(DistributedEventHandler[Noted]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork, repaired: bool, _unclosable: Unclosable) -> None:
        self._unit_of_work = unit_of_work
        self._repaired = repaired

    async def handle(self, event: Noted) -> None:
        await audit(self._unit_of_work)
        if not self._repaired:
            misbehave(event.action)


class AuditKept(DistributedEventHandler[Kept]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork, _unclosable: Unclosable) -> None:
        self._unit_of_work = unit_of_work

    async def handle(self, event: Kept) -> None:
        await audit(self._unit_of_work)


async def audit(unit_of_work: SqlAlchemyUnitOfWork) -> None:
    insert = text("INSERT INTO audits (id, key, detail) VALUES (:id, '', '')")
    await unit_of_work.session.execute(insert, {"id": current_delivery().id})


def misbehave(action: str) -> None:
    """What a handler may do to its process."""
    if action == "broken":
        raise ValueError(action)
    if action == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
