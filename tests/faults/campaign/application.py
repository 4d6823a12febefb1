"""The applications of the campaign: a ledger publishes its bookings, a keeper records them and publishes events in turn."""

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path
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
    """Raised after the events of a command were added: the events must never be published."""


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
    """An event without a key, whose order is not promised."""

    event_type: ClassVar[str] = "ledger.noted"
    action: str = ""


@dataclass(frozen=True, slots=True)
class Kept(DistributedEvent):
    """The event that the keeper publishes for each `Booked`."""

    event_type: ClassVar[str] = "keeper.kept"
    key: str

    @property
    def partition_key(self) -> str:
        return self.key


@dataclass(frozen=True, slots=True)
class Book(Command[None]):
    """Performs some steps in one transaction.

    Attributes:
        key: The partition key of the events.
        name: The name of the command: its sender and a running number.
        steps: The steps that `BookHandler` performs.
        never: Whether none of its rows may ever be committed, because it or an enclosing command fails.
        action: The action of the handlers of its events.
        within: The time limit in seconds, after which it is cancelled and its sender learns the outcome.
    """

    key: str
    name: str
    steps: tuple[str, ...]
    never: bool = False
    action: str = ""
    within: float | None = None


@dataclass(frozen=True, slots=True)
class Acknowledge(Command[None]):
    """Records that a command has succeeded: its rows must not be lost later."""

    name: str


class Within(PipelineBehavior[Book, None]):
    """Cancels a command that exceeds its time limit."""

    async def handle(self, command: Book, call_next: CallNext[None]) -> None:
        if command.within is None:
            await call_next()
        else:
            await TimeoutBehavior(command.within).handle(command, call_next)


class BookHandler(RequestHandler[Book, None]):
    """Records the id of each event in the same transaction, so that the checker knows the committed events."""

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
        """Send a command in the mode that the step names; the suffix `-fail` makes the command fail in the end."""
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


class Service:
    """A service that the handlers of the keeper call. It is away while a file lies in the folder of the campaign."""

    def __init__(self, folder: str) -> None:
        self.away: Path = Path(folder) / "service-away"

    def call(self) -> None:
        if self.away.exists():
            raise ConnectionError("the service is away")


class KeepBooked(DistributedEventHandler[Booked]):
    """Records the id of the event and the id of the event that it causes."""

    def __init__(
        self,
        unit_of_work: SqlAlchemyUnitOfWork,
        distributed_events: DistributedEventBroker,
        repaired: bool,
        service: Service,
        _unclosable: Unclosable,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._distributed_events = distributed_events
        self._repaired = repaired
        self._service = service

    async def handle(self, event: Booked) -> None:
        row = {"id": current_delivery().id, "key": event.key, "detail": self._distributed_events.add(Kept(event.key))}
        insert = text("INSERT INTO effects (id, key, detail) VALUES (:id, :key, :detail)")
        await self._unit_of_work.session.execute(insert, row)
        self._service.call()
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
    """Perform the action of an event on the process of its handler."""
    if action == "broken":
        raise ValueError(action)
    if action == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
