"""Idempotency: a command that is repeated with its key takes effect once; in memory, in SQLite and in PostgreSQL."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from mediator import (
    Command,
    DistributedEventBroker,
    DistributedUnitOfWorkBehavior,
    IdempotencyBehavior,
    Mediator,
    MessageContext,
    PipelineBehavior,
    RequestHandler,
    TransactionMode,
    UnitOfWork,
    current_scope,
    current_unit_of_work,
)
from mediator.behaviors.retry import RetryBehavior
from mediator.binding import Binding
from mediator.distributed.idempotency import Idempotency, former_key
from mediator.distributed.outbox import Outbox
from mediator.errors import (
    CommitOutcomeUnknownError,
    CommittedError,
    DeclarationError,
    IdempotencyConflictError,
    MisuseError,
    NoUnitOfWorkError,
    SettingError,
)
from mediator.registry import Registry
from mediator.sqlalchemy import (
    SqlAlchemyIdempotency,
    SqlAlchemyOutbox,
    SqlAlchemyUnitOfWork,
    create_schema,
    open_engine,
)
from mediator.testing import InMemoryDatabase, InMemoryIdempotency, InMemoryOutbox, InMemoryUnitOfWork
from mediator.testing.failpoints import Failure, failpoint

Step = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Receipt:
    number: int
    labels: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Pay(Command[Receipt]):
    amount: int
    idempotency_key: str | UUID | None = None
    labels: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Refund(Command[Receipt]):
    amount: int
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Untyped(Command[Any]):
    returns: str
    idempotency_key: str = "a"


@dataclass(frozen=True, slots=True)
class Strange(Command[None]):
    what: Any
    idempotency_key: str = "a"


@dataclass(frozen=True, slots=True)
class Do(Command[Any]):
    action: Step


class SwallowErrors(PipelineBehavior[Pay, Receipt]):
    async def handle(self, command: Pay, call_next: Any) -> Receipt:
        try:
            found: Receipt = await call_next()
        except LookupError:
            return Receipt(0)
        return found


class Clock:
    """A clock of the database. `ahead` is the number of seconds by which it is fast."""

    ahead = 0.0

    def __call__(self) -> float:
        return self.ahead


@dataclass(eq=False)
class Bank:
    make: Callable[[], UnitOfWork]
    outbox: Outbox
    idempotency: Callable[..., Idempotency]
    write: Callable[[UnitOfWork, int], Awaitable[None]]
    payments: Callable[[], Awaitable[list[int]]]
    clock: Clock
    then: list[Step] = field(default_factory=list)
    around: list[type] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = self.idempotency(keep_seconds=100.0)
        self.wire()

    def wire(self, *, retries: bool = False) -> None:
        handlers = [Binding(lambda: _Pay(self), _Pay, "pay", RequestHandler), Binding(_Do, _Do, "do", RequestHandler)]
        behaviors = [
            Binding(self._transaction, DistributedUnitOfWorkBehavior, "transaction", PipelineBehavior),
            *(Binding(cls, cls, "around", PipelineBehavior) for cls in self.around),
            Binding(
                lambda: IdempotencyBehavior(self.kept, **self.options), IdempotencyBehavior, "once", PipelineBehavior
            ),
        ]
        retry = Binding(lambda: RetryBehavior(on=OSError, first_wait=0.001), RetryBehavior, "retry", PipelineBehavior)
        self.mediator = Mediator(Registry(handlers, [retry, *behaviors] if retries else behaviors))

    @property
    def unit_of_work(self) -> UnitOfWork:
        instances = current_scope().instances
        if self not in instances:
            created = instances[self] = self.make()
            if isinstance(created, SqlAlchemyUnitOfWork):
                current_scope().on_exit(lambda _: created.aclose())
        found: UnitOfWork = instances[self]
        return found

    def _transaction(self) -> DistributedUnitOfWorkBehavior[Any]:
        return DistributedUnitOfWorkBehavior(self.unit_of_work, DistributedEventBroker(self.unit_of_work), self.outbox)

    async def send(self, command: Any, *, header: str | None = None, **about: Any) -> Any:
        headers = {} if header is None else {"Idempotency-Key": header}
        return await self.mediator.send(command, context=MessageContext.new(headers=headers, **about))


class _Pay(RequestHandler[Pay | Refund | Untyped | Strange, Any]):
    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    async def handle(self, command: Pay | Refund | Untyped | Strange) -> Any:
        amount = command.amount if isinstance(command, Pay | Refund) else 1
        await self._bank.write(self._bank.unit_of_work, amount)
        if self._bank.then:
            await self._bank.then.pop(0)()
        if isinstance(command, Untyped):
            return Receipt(1) if command.returns == "receipt" else command.returns
        return None if isinstance(command, Strange) else Receipt(amount, frozenset({"paid"}))


class _Do(RequestHandler[Do, Any]):
    async def handle(self, command: Do) -> Any:
        return await command.action()


@asynccontextmanager
async def in_memory() -> AsyncIterator[Bank]:
    clock = Clock()
    database = InMemoryDatabase(clock_offset=clock)
    numbers = iter(range(1000))

    async def write(unit_of_work: UnitOfWork, amount: int) -> None:
        assert isinstance(unit_of_work, InMemoryUnitOfWork)
        unit_of_work.table("payments")[next(numbers)] = amount

    async def payments() -> list[int]:
        return list(database.tables.get("payments", {}).values())

    make = lambda **options: InMemoryIdempotency(database, **options)  # noqa: E731
    yield Bank(lambda: InMemoryUnitOfWork(database), InMemoryOutbox(database), make, write, payments, clock)


@asynccontextmanager
async def in_database(url: str) -> AsyncIterator[Bank]:
    clock = Clock()
    async with open_engine(url) as engine:
        await create_schema(engine)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE payments (amount INTEGER)"))

        async def write(unit_of_work: UnitOfWork, amount: int) -> None:
            assert isinstance(unit_of_work, SqlAlchemyUnitOfWork)
            await unit_of_work.session.execute(text("INSERT INTO payments VALUES (:amount)"), {"amount": amount})

        async def payments() -> list[int]:
            async with engine.connect() as connection:
                return [row.amount for row in await connection.execute(text("SELECT amount FROM payments"))]

        make = lambda **options: SqlAlchemyIdempotency(engine, clock_offset=clock, **options)  # noqa: E731
        yield Bank(lambda: SqlAlchemyUnitOfWork(engine), SqlAlchemyOutbox(engine), make, write, payments, clock)


@pytest.fixture
async def bank(database: str | None) -> AsyncIterator[Bank]:
    async with in_memory() if database is None else in_database(database) as made:
        yield made


PAID_ONE = Receipt(1, frozenset({"paid"}))


async def test_a_repeated_command_returns_the_stored_response_and_runs_once(bank):
    answers = [await bank.send(Pay(1, "a")), await bank.send(Pay(1, "a")), await bank.send(Pay(1), header="b")]
    again = await bank.send(Pay(1), header="b")

    assert [*answers, again] == [PAID_ONE] * 4
    assert await bank.payments() == [1, 1]


async def test_a_command_without_a_key_is_handled_each_time(bank):
    for _ in range(2):
        assert await bank.send(Pay(1)) == PAID_ONE
    assert await bank.payments() == [1, 1]


async def test_a_key_is_scoped_to_its_principal_tenant_and_message_class(bank):
    await bank.send(Pay(1, "a"))
    await bank.send(Pay(1, "a"), principal="ada")
    await bank.send(Pay(1, "a"), tenant="ada")
    await bank.send(Pay(1, "a"), principal="ada", tenant="ada")
    await bank.send(Refund(1, "a"))
    await bank.send(Pay(1, UUID(int=1)))
    await bank.send(Pay(1, UUID(int=1)))
    assert await bank.payments() == [1] * 6


async def test_the_same_key_with_another_payload_is_a_conflict_and_changes_nothing(bank):
    await bank.send(Pay(1, "a"))
    with pytest.raises(IdempotencyConflictError, match="another payload"):
        await bank.send(Pay(2, "a"))
    assert await bank.payments() == [1]
    assert await bank.send(Pay(1, "a")) == PAID_ONE


async def test_payloads_are_equal_for_any_order_of_unordered_collections(bank):
    labels = [f"label {number}" for number in range(20)]
    await bank.send(Pay(1, "a", frozenset(labels)))
    await bank.send(Pay(1, "a", frozenset(reversed(labels))))
    assert await bank.payments() == [1]


async def test_an_error_is_never_stored(bank):
    async def fail() -> None:
        raise LookupError

    bank.then += [fail]
    with pytest.raises(LookupError):
        await bank.send(Pay(1, "a"))
    assert await bank.send(Pay(1, "a")) == PAID_ONE
    assert await bank.payments() == [1]


async def test_an_error_that_a_behavior_turned_into_a_commit_is_not_stored_either(bank):
    async def fail() -> None:
        raise LookupError

    bank.around.append(SwallowErrors)
    bank.wire()
    bank.then += [fail]
    assert await bank.send(Pay(1, "a")) == Receipt(0)
    assert await bank.send(Pay(1, "a")) == PAID_ONE
    assert await bank.send(Pay(1, "a")) == PAID_ONE
    assert await bank.payments() == [1, 1]


async def test_the_second_of_two_concurrent_commands_waits_for_the_response_of_the_first(bank):
    entered, released = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        entered.set()
        await released.wait()

    bank.then.append(wait)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(bank.send(Pay(1, "a")))
        await entered.wait()
        second = group.create_task(bank.send(Pay(1, "a")))
        await asyncio.wait([second], timeout=0.1)
        assert not second.done()
        released.set()

    assert first.result() == second.result() == PAID_ONE
    assert await bank.payments() == [1]


async def test_the_second_of_two_concurrent_commands_runs_when_the_first_rolls_back(bank):
    entered, released = asyncio.Event(), asyncio.Event()

    async def fail() -> None:
        entered.set()
        await released.wait()
        raise LookupError

    bank.then.append(fail)
    async with asyncio.TaskGroup() as group:
        first = asyncio.ensure_future(bank.send(Pay(1, "a")))
        await entered.wait()
        second = group.create_task(bank.send(Pay(1, "a")))
        released.set()
        with pytest.raises(LookupError):
            await first

    assert second.result() == PAID_ONE
    assert await bank.payments() == [1]


async def test_many_concurrent_commands_with_one_key_run_once(bank):
    answers = await asyncio.gather(*(bank.send(Pay(1, "a")) for _ in range(5)))
    assert answers == [PAID_ONE] * 5
    assert await bank.payments() == [1]


async def test_after_an_unknown_outcome_or_a_failure_after_the_commit_the_caller_repeats_with_the_same_key(bank):
    lost = CommitOutcomeUnknownError("some transaction", "the answer was lost")
    with failpoint("unit_of_work.during_commit", Failure(lost)), pytest.raises(CommitOutcomeUnknownError):
        await bank.send(Pay(1, "a"))
    with failpoint("unit_of_work.after_commit", Failure(lost)), pytest.raises(CommittedError):
        await bank.send(Pay(1, "a"))
    assert await bank.payments() == [1]
    assert await bank.send(Pay(1, "a")) == PAID_ONE
    assert await bank.payments() == [1]


async def test_an_inner_command_inherits_the_header_but_does_not_use_the_key(bank):
    async def send() -> None:
        for amount in (2, 3):
            await bank.mediator.send(Pay(amount))

    bank.then.append(send)
    await bank.send(Pay(1), header="a")
    await bank.send(Pay(1), header="a")
    assert sorted(await bank.payments()) == [1, 2, 3]


@pytest.mark.parametrize("database", ["memory", "postgresql"], indirect=True)
async def test_an_inner_command_in_a_new_transaction_does_not_use_the_key_either(bank):
    async def send() -> None:
        for amount in (2, 3):
            await bank.mediator.send(Pay(amount), mode=TransactionMode.NEW)

    bank.then.append(send)
    await bank.send(Pay(1), header="a")
    await bank.send(Pay(1), header="a")
    assert sorted(await bank.payments()) == [1, 2, 3]


async def test_the_response_of_a_joined_command_with_its_own_key_is_stored_in_the_outer_transaction(bank):
    async def twice() -> Any:
        await bank.mediator.send(Pay(1, "a"))
        return await bank.mediator.send(Pay(1, "a"))

    async def fail() -> None:
        await twice()
        raise LookupError

    with pytest.raises(LookupError):
        await bank.send(Do(fail))
    assert await bank.send(Do(twice)) == PAID_ONE
    assert await bank.payments() == [1]


async def test_a_savepoint_that_is_rolled_back_discards_the_key(bank):
    async def fail() -> None:
        raise LookupError

    async def work() -> Any:
        with pytest.raises(LookupError):
            await bank.mediator.send(Pay(1, "a"), mode=TransactionMode.NESTED)
        return await bank.mediator.send(Pay(1, "a"))

    bank.then.append(fail)
    await bank.send(Do(work))
    await bank.send(Pay(1, "a"))
    assert await bank.payments() == [1]


async def test_each_attempt_of_a_retry_has_the_key_of_the_message(bank):
    async def fail() -> None:
        raise OSError

    bank.wire(retries=True)
    bank.then.append(fail)
    await bank.send(Pay(1), header="a")
    await bank.send(Pay(1), header="a")
    assert await bank.payments() == [1]


async def test_an_expired_key_can_be_used_again(bank):
    await bank.send(Pay(1, "a"))
    bank.clock.ahead += 99
    await bank.send(Pay(1, "a"))
    bank.clock.ahead += 2
    assert (await bank.send(Pay(2, "a"))).number == 2
    assert (await bank.send(Pay(2, "a"))).number == 2
    assert await bank.payments() == [1, 2]


async def test_a_response_stored_by_an_earlier_version_is_found_until_it_expires(bank):
    async def keep(key: str) -> None:
        command, kept, unit_of_work = Pay(1, key), bank.kept, bank.unit_of_work
        former = former_key(command, key, MessageContext.new())
        fingerprint = hashlib.sha256(kept.encode_command(command)).hexdigest()
        assert await kept.claim(unit_of_work, former, fingerprint) is None
        await kept.keep(unit_of_work, former, kept.encode_response(command, PAID_ONE))

    for key in ("a", "b"):
        await bank.send(Do(partial(keep, key)))
    bank.clock.ahead += 60
    assert await bank.send(Pay(1, "a")) == PAID_ONE
    with pytest.raises(IdempotencyConflictError):
        await bank.send(Pay(2, "a"))
    bank.clock.ahead += 60  # the repeated command stored "a" under the new form of key
    assert await bank.send(Pay(1, "a")) == PAID_ONE
    assert await bank.payments() == []
    assert (await bank.send(Pay(2, "b"))).number == 2
    assert await bank.payments() == [2]


async def test_old_records_are_deleted_in_bounded_batches(bank):
    for key in "abc":
        await bank.send(Pay(1, key))
    bank.clock.ahead += 101
    await bank.send(Pay(1, "d"))
    assert [await bank.kept.clean(2), await bank.kept.clean(2), await bank.kept.clean(2)] == [2, 1, 0]
    await bank.send(Pay(1, "d"))
    assert await bank.payments() == [1] * 4


async def test_the_worker_deletes_expired_records(bank):
    worker = bank.idempotency(keep_seconds=100.0, clean_interval=0.01)
    await bank.send(Pay(1, "a"))
    bank.clock.ahead += 101
    running = asyncio.create_task(worker.run())
    await bank.send(Pay(1, "b"))
    async with asyncio.timeout(10):
        while await stored_keys(bank) > 1:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])


async def stored_keys(bank: Bank) -> int:
    """Count the stored keys from inside a command."""
    found = 0

    async def look() -> None:
        nonlocal found
        unit_of_work = current_unit_of_work()
        if isinstance(unit_of_work, InMemoryUnitOfWork):
            found = len(unit_of_work.table("mediator_idempotency"))
        else:
            assert isinstance(unit_of_work, SqlAlchemyUnitOfWork)
            found = await unit_of_work.session.scalar(text("SELECT count(*) FROM mediator_idempotency")) or 0

    await bank.send(Do(look))
    return found


@pytest.mark.parametrize("command", [Strange(object()), Untyped("receipt")])
async def test_a_response_that_cannot_be_encoded_fails_the_command_and_leaves_nothing(bank, command):
    with pytest.raises(MisuseError, match=type(command).__name__):
        await bank.send(command)
    assert await bank.payments() == []


async def test_an_untyped_response_is_accepted_if_it_survives_json(bank):
    assert [await bank.send(Untyped("text")), await bank.send(Untyped("text"))] == ["text", "text"]
    assert [await bank.send(Strange(1)), await bank.send(Strange(1))] == [None, None]
    assert await bank.payments() == [1, 1]


async def test_a_key_without_a_unit_of_work_is_an_error(bank):
    with pytest.raises(NoUnitOfWorkError, match="Pay"):
        await bank.mediator.send(Pay(1, "a"), mode=TransactionMode.SUPPRESS)


async def test_a_unit_of_work_of_another_database_is_refused(bank):
    async with in_memory() as other:
        bank.kept = other.kept
        with pytest.raises(MisuseError, match="belongs to another unit of work or database"):
            await bank.send(Pay(1, "a"))
    assert await bank.payments() == []


async def test_impossible_settings_are_refused():
    async with in_memory() as bank:
        for setting in ("keep_seconds", "clean_interval"):
            with pytest.raises(SettingError, match=setting):
                bank.idempotency(**{setting: 0})


async def test_the_key_may_come_from_a_custom_function():
    async with in_memory() as bank:
        bank.options = {"key": lambda command: str(command.amount), "header": "x-request"}
        await bank.send(Pay(1))
        await bank.send(Pay(1))
        await bank.send(Pay(2))
        assert await bank.payments() == [1, 2]


def class_in_another_module(name: str, module: str) -> Any:
    """Return a class with the given name in another module."""
    made = make_dataclass(name, [("amount", int)], bases=(Command[Receipt],), frozen=True)
    made.__module__ = module
    return made


async def test_a_request_type_distinguishes_two_commands_of_one_name(bank):
    other = class_in_another_module("Refund", "elsewhere")
    assert bank.kept.name_of(Refund(1)) == "Refund"
    with pytest.raises(DeclarationError, match=r"has the name 'Refund' among commands with idempotency keys"):
        bank.kept.name_of(other(1))
    other.request_type = "billing.refund"
    assert bank.kept.name_of(other(1)) == "billing.refund"


async def test_an_empty_key_is_refused(bank):
    with pytest.raises(MisuseError, match="is empty. Use None"):
        await bank.send(Refund(1, ""))
    with pytest.raises(MisuseError, match="is empty. Use None"):
        await bank.send(Refund(1, ""), header="a")
    with pytest.raises(MisuseError, match="is empty. Use None"):
        await bank.send(Refund(1), header="")
    assert await bank.payments() == []
