"""Objects loaded before the running transaction: they stay readable, and are refreshed before they are written."""

import datetime as dt
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import JSON, DateTime, ForeignKey, Numeric, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload, validates
from sqlalchemy.orm.exc import DetachedInstanceError

from mediator import TransactionMode
from mediator.errors import NoUnitOfWorkError, RolledBackError, StaleObjectError
from mediator.transactions import Outcome
from tests.adapters.sqlalchemy.ledger import Do, Ledger

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owners"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    note: Mapped[str] = mapped_column(default="")
    accounts: Mapped[list["Account"]] = relationship(back_populates="owner", order_by="Account.id")

    @validates("note")
    def _sign(self, _key: str, note: str) -> str:
        return f"{note}!"


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("owners.id"))
    balance: Mapped[int] = mapped_column(default=100)
    ceiling: Mapped[int] = mapped_column(default=0)
    rate: Mapped[Decimal] = mapped_column(Numeric(10, 2), default=Decimal("1.5"))
    opened: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), default=NOON)
    settings: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(JSON), default=dict)
    owner: Mapped[Owner | None] = relationship(back_populates="accounts")


class Bank:
    def __init__(self, ledger: Ledger, engine: AsyncEngine) -> None:
        self.ledger = ledger
        self._engine = engine

    @property
    def session(self) -> AsyncSession:
        return self.ledger.unit_of_work.session

    async def do(self, action: Callable[[], Awaitable[Any]], **options: Any) -> Any:
        return await self.ledger.send(Do(lambda _ledger: action()), **options)

    def scope(self) -> Any:
        return self.ledger.mediator.scope()

    async def elsewhere(self, statement: str) -> None:
        """Commit a statement as another process would."""
        async with self._engine.begin() as connection:
            await connection.execute(text(statement))

    async def stored(self, column: str = "balance", table: str = "accounts") -> Any:
        async with self._engine.connect() as connection:
            return (await connection.execute(text(f"SELECT {column} FROM {table} WHERE id = 1"))).scalar_one()

    async def account(self) -> Account:
        return await self.session.get_one(Account, 1)


@pytest.fixture
async def bank(ledger: Ledger, engine: AsyncEngine) -> Bank:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    bank = Bank(ledger, engine)

    async def open_account() -> None:
        bank.session.add(Owner(id=1, name="Ada", accounts=[Account(id=1)]))
        bank.session.add(Owner(id=2, name="Carl"))

    await bank.do(open_account)
    return bank


async def _by_get(session: AsyncSession) -> Account:
    return await session.get_one(Account, 1)


async def _by_get_for_update(session: AsyncSession) -> Account:
    return await session.get_one(Account, 1, with_for_update=True)


async def _by_select(session: AsyncSession) -> Account:
    return (await session.scalars(select(Account))).one()


async def _by_select_for_update(session: AsyncSession) -> Account:
    return (await session.scalars(select(Account).with_for_update())).one()


async def _without_autoflush(session: AsyncSession) -> Account:
    with session.no_autoflush:
        return (await session.scalars(select(Account))).one()


async def _by_relationship(session: AsyncSession) -> Account:
    owner = (await session.scalars(select(Owner).where(Owner.id == 1).options(selectinload(Owner.accounts)))).one()
    return owner.accounts[0]


async def _by_run_sync(session: AsyncSession) -> Account:
    return await session.run_sync(lambda sync: sync.get_one(Account, 1).owner.accounts[0])  # type: ignore[union-attr]


WAYS = [
    _by_get,
    _by_get_for_update,
    _by_select,
    _by_select_for_update,
    _without_autoflush,
    _by_relationship,
    _by_run_sync,
]


async def _with_all(session: AsyncSession) -> Account:
    loaded = select(Account).where(Account.id == 1).options(selectinload(Account.owner).selectinload(Owner.accounts))
    return (await session.scalars(loaded)).one()


async def _in_a_command(bank: Bank) -> Account:
    found: Account = await bank.do(lambda: _with_all(bank.session))
    return found


async def _in_a_command_that_failed(bank: Bank) -> Account:
    found: list[Account] = []

    async def fail() -> None:
        found.append(await _with_all(bank.session))
        raise LookupError

    with pytest.raises(LookupError):
        await bank.do(fail)
    return found[0]


async def _outside(bank: Bank) -> Account:
    return await _with_all(bank.session)


BEFORE = [_in_a_command, _in_a_command_that_failed, _outside]


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("way", WAYS)
async def test_a_transaction_reads_the_state_of_the_database_at_its_begin(bank, before, way):
    async def withdraw() -> None:
        account = await way(bank.session)
        assert account.balance == 50
        account.balance -= 10

    async with bank.scope():
        kept = await before(bank)
        await bank.elsewhere("UPDATE accounts SET balance = 50")
        await bank.do(withdraw)
        assert await bank.stored() == 40
        assert kept is not None


async def test_a_loaded_object_stays_readable_through_later_transactions(bank):
    async def fail() -> None:
        await bank.account()
        raise LookupError

    async with bank.scope():
        account = await _in_a_command(bank)
        await bank.do(bank.account)
        with pytest.raises(LookupError):
            await bank.do(fail)
        await _by_select(bank.session)
        await bank.do(bank.account)
        assert (account.balance, account.owner and account.owner.name) == (100, "Ada")
    assert (account.balance, account.owner and account.owner.name) == (100, "Ada")


async def test_a_created_object_stays_readable_and_is_loaded_with_its_current_values(bank):
    async def create() -> Account:
        bank.session.add(account := Account(id=7))
        return account

    async def find() -> tuple[Account, int]:
        found = await bank.session.get_one(Account, 7)
        return found, found.balance

    async with bank.scope():
        account = await bank.do(create)
        await bank.elsewhere("UPDATE accounts SET balance = 5 WHERE id = 7")
        found, balance = await bank.do(find)
        assert (account.id, account.balance, balance) == (7, 100, 5)
        assert found is not account


@pytest.mark.parametrize("before", [_in_a_command, _outside])
async def test_a_change_to_an_earlier_object_is_stored_if_its_row_is_unchanged(bank, before):
    async with bank.scope():
        account = await before(bank)

        async def change() -> None:
            account.balance -= 10
            account.settings["color"] = "red"

        await bank.do(change)
        assert (await bank.stored(), account.balance) == (90, 90)
        assert "red" in str(await bank.stored("settings"))


async def test_a_validator_is_called_once_for_a_change_to_an_earlier_object(bank):
    async with bank.scope():
        owner = await bank.do(lambda: bank.session.get_one(Owner, 1))

        async def write() -> None:
            owner.note = "paid"

        await bank.do(write)
    assert (await bank.stored("note", "owners"), owner.note) == ("paid!", "paid!")


@pytest.mark.parametrize("column", ["balance", "ceiling"])
async def test_a_change_to_an_earlier_object_is_an_error_if_its_row_has_changed(bank, column):
    async with bank.scope():
        account = await _in_a_command(bank)
        await bank.elsewhere(f"UPDATE accounts SET {column} = 50")

        async def change() -> None:
            account.balance -= 10

        with pytest.raises(StaleObjectError, match=f"Account.*{column}"):
            await bank.do(change)
        assert (account.balance, account.owner.name) == (100, "Ada")
    assert await bank.stored(column) == 50


async def test_a_value_mutated_in_place_does_not_overwrite_a_newer_one(bank):
    async with bank.scope():
        account = await _in_a_command(bank)
        await bank.elsewhere("UPDATE accounts SET settings = '{\"size\": 3}'")

        async def change() -> None:
            account.settings["color"] = "red"

        with pytest.raises(StaleObjectError, match="settings"):
            await bank.do(change)
        assert account.settings == {}
    assert "size" in str(await bank.stored("settings"))


async def test_a_change_to_an_earlier_object_is_an_error_if_this_transaction_has_reloaded_it(bank):
    async with bank.scope():
        account = await _in_a_command(bank)

        async def change() -> Account:
            current = await bank.account()
            account.balance -= 10
            return current

        with pytest.raises(StaleObjectError, match="another object"):
            await bank.do(change)
        await bank.do(bank.account)
    assert await bank.stored() == 100


@pytest.mark.parametrize("catching", [True, False])
async def test_a_change_that_a_later_query_would_overwrite_is_an_error(bank, catching):
    async with bank.scope():
        account = await _in_a_command(bank)
        await bank.elsewhere("UPDATE accounts SET balance = 50")

        async def change() -> None:
            account.balance -= 10
            try:
                await _by_select(bank.session)
            except StaleObjectError:
                if not catching:
                    raise

        with pytest.raises(RolledBackError if catching else StaleObjectError):
            await bank.do(change)
    assert await bank.stored() == 50


async def test_a_changed_earlier_object_whose_row_is_gone_is_an_error(bank):
    async with bank.scope():
        account = await _in_a_command(bank)
        await bank.elsewhere("DELETE FROM accounts")

        async def change() -> None:
            account.balance -= 10

        with pytest.raises(StaleObjectError, match="gone"):
            await bank.do(change)


async def test_a_change_to_an_object_that_an_earlier_transaction_deleted_is_an_error(bank):
    async with bank.scope():
        account = await _in_a_command(bank)

        deleted: list[Account] = []

        async def delete_it() -> None:
            deleted.append(await bank.account())
            await bank.session.delete(deleted[0])

        await bank.do(delete_it)

        async def change(which: Account) -> None:
            which.balance -= 10

        for which in (account, deleted[0]):
            with pytest.raises(StaleObjectError, match=r"gone|deleted"):
                await bank.do(lambda each=which: change(each))
        assert account.balance == 100


async def test_a_change_to_an_earlier_object_without_references_is_an_error(bank):
    async with bank.scope():
        kept: list[Account] = []

        async def load() -> None:
            kept.append(await bank.account())

        async def change() -> None:
            kept.pop().balance -= 10

        await bank.do(load)

        with pytest.raises(StaleObjectError, match="was garbage-collected"):
            await bank.do(change)
        await bank.do(bank.account)
    assert await bank.stored() == 100


async def test_deleting_an_earlier_object_reloads_it(bank):
    async with bank.scope():
        account = await _in_a_command(bank)

        async def delete() -> None:
            await bank.session.delete(account)

        await bank.elsewhere("UPDATE accounts SET balance = 50")
        with pytest.raises(StaleObjectError, match="balance"):
            await bank.do(delete)
        account = await _in_a_command(bank)
        await bank.do(delete)
    async with bank.scope():
        assert await bank.session.get(Account, 1) is None


async def test_a_new_object_may_refer_to_an_earlier_one_which_is_then_reloaded(bank):
    async with bank.scope():
        owner = await bank.do(lambda: bank.session.get_one(Owner, 1))
        await bank.elsewhere("UPDATE owners SET name = 'Eda' WHERE id = 1")

        async def add() -> str:
            bank.session.add(Account(id=3, owner=owner))
            assert owner.name == "Ada"
            found = await bank.session.get_one(Owner, 1)
            assert found is owner
            return found.name

        assert await bank.do(add) == "Eda"
        assert owner.name == "Eda"
    assert await bank.stored("count(*)") == 1
    async with bank.scope():
        assert (await bank.session.get_one(Account, 3)).owner_id == 1


async def test_an_object_is_not_looked_up_before_it_is_reloaded(bank):
    async with bank.scope():
        owner = await bank.do(lambda: bank.session.get_one(Owner, 1))

        async def add() -> None:
            account = await bank.account()
            bank.session.add(Account(id=3, owner=owner))
            with pytest.raises(StaleObjectError, match="flush"):
                _ = account.owner
            await bank.session.flush()
            assert account.owner is owner

        with pytest.raises(RolledBackError):
            await bank.do(add)


async def test_an_earlier_object_may_be_refreshed_and_changed(bank):
    async with bank.scope():
        account = await _in_a_command(bank)
        await bank.elsewhere("UPDATE accounts SET balance = 50")

        async def withdraw() -> None:
            await bank.session.refresh(account, with_for_update=True)
            account.balance -= 10

        await bank.do(withdraw)
        await bank.elsewhere("UPDATE accounts SET balance = 30")

        async def refresh_one() -> None:
            await bank.session.refresh(account, ["balance"])
            account.balance -= 10

        await bank.do(refresh_one)
    assert await bank.stored() == 20


async def test_merging_an_earlier_object_writes_no_old_value_over_a_new_one(bank):
    async with bank.scope():
        account = await _in_a_command(bank)
        await bank.elsewhere("UPDATE accounts SET balance = 50")

        async def merge() -> int:
            merged = await bank.session.merge(account)
            merged.ceiling = 7
            return merged.balance

        assert await bank.do(merge) == 50

        async def merge_into_another() -> int:
            current = await bank.account()
            assert await bank.session.merge(account) is current
            return current.balance

        assert await bank.do(merge_into_another) == 50

        async def merge_changed() -> None:
            current = await bank.account()
            account.balance -= 10
            await bank.session.merge(account)
            current.balance = 0

        with pytest.raises(StaleObjectError):
            await bank.do(merge_changed)
    assert (await bank.stored(), await bank.stored("ceiling")) == (50, 7)


async def test_an_addition_to_a_collection_of_a_detached_object_is_stored_unless_others_have_changed_it(bank):
    async with bank.scope():
        account = await _in_a_command(bank)
        owner = account.owner
        assert owner is not None

        async def add(number: int) -> None:
            owner.accounts.append(Account(id=number))

        await bank.do(lambda: add(5))
        assert [each.id for each in owner.accounts] == [1, 5]
        await bank.elsewhere("INSERT INTO accounts SELECT 6, 1, 0, 0, 0, opened, settings FROM accounts WHERE id = 1")
        with pytest.raises(StaleObjectError, match="accounts"):
            await bank.do(lambda: add(8))

        async def take() -> None:
            found = (await bank.session.scalars(select(Owner).where(Owner.id == 1))).one()
            assert [each.id for each in await bank.session.run_sync(lambda _: found.accounts)] == [1, 5, 6]

        await bank.do(take)


async def test_a_removal_from_a_collection_of_a_detached_object_is_stored(bank):
    async with bank.scope():
        owner = (await _in_a_command(bank)).owner
        assert owner is not None

        async def remove() -> None:
            owner.accounts.pop()

        await bank.do(remove)
    assert await bank.stored("owner_id") is None


async def test_a_new_owner_of_an_earlier_object_is_stored(bank):
    async with bank.scope():
        account = await _in_a_command(bank)
        carl = await bank.do(lambda: bank.session.get_one(Owner, 2))

        async def give() -> None:
            account.owner = carl

        await bank.do(give)
    assert await bank.stored("owner_id") == 2


async def test_a_change_between_two_transactions_is_an_error_that_names_the_class(bank):
    async with bank.scope():
        account = await _in_a_command(bank)
        account.balance = 1
        with pytest.raises(NoUnitOfWorkError, match=r"Account \(changed\)"):
            await bank.do(bank.account)
        await bank.session.refresh(account)
        await bank.do(bank.account)
        account.balance = 2
        with pytest.raises(NoUnitOfWorkError, match=r"Account \(changed\)"):
            await bank.do(bank.account)
        await bank.session.refresh(account)
    assert await bank.stored() == 100


async def test_a_rollback_discards_the_changes_of_its_transaction(bank):
    async with bank.scope():
        account = await _in_a_command(bank)

        async def fail() -> None:
            account.balance -= 10
            account.settings["color"] = "red"
            account.owner.accounts.append(Account(id=9))
            raise LookupError

        with pytest.raises(LookupError):
            await bank.do(fail)
        assert (account.balance, account.settings, len(account.owner.accounts)) == (100, {}, 1)
        await bank.do(bank.account)
    assert await bank.stored() == 100


async def test_a_rollback_to_a_savepoint_discards_its_changes(bank):
    async with bank.scope():
        account = await _in_a_command(bank)

        async def inner() -> None:
            account.balance -= 10
            raise LookupError

        async def outer() -> None:
            account.ceiling = 3
            with pytest.raises(LookupError):
                await bank.do(inner, mode=TransactionMode.NESTED)

        await bank.do(outer)
    assert (await bank.stored(), await bank.stored("ceiling")) == (100, 3)


async def test_values_loaded_in_a_rolled_back_savepoint_are_not_used_for_comparison(bank):
    async def inner() -> None:
        await bank.session.execute(text("UPDATE accounts SET balance = 0"))
        kept.append(await bank.account())
        raise LookupError

    async def outer() -> int:
        with pytest.raises(LookupError):
            await bank.do(inner, mode=TransactionMode.NESTED)
        return (await bank.session.get_one(Account, 1)).balance

    kept: list[Account] = []
    assert await bank.do(outer) == 100


async def test_values_read_after_a_command_are_the_values_in_the_database(bank):
    async with bank.scope() as scope:
        account = await _in_a_command(bank)
        assert scope.outcome is Outcome.COMMITTED
        await bank.elsewhere("UPDATE accounts SET balance = 50")
        assert (await bank.account()).balance == 50
        assert account.balance == 100


async def test_unloaded_values_can_be_read_after_a_command(bank):
    async with bank.scope():
        account = await bank.do(bank.account)
        owner = await bank.session.run_sync(lambda _: account.owner)
        assert owner is not None
        assert owner.name == "Ada"


values = st.sampled_from(["balance", "ceiling"])
steps = st.lists(
    st.tuples(st.sampled_from(["new", "kept", "fresh", "refresh", "fail", "elsewhere", "look"]), values), max_size=8
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
@example([("fail", "balance"), ("kept", "balance")])
@pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
async def test_no_increment_is_lost_and_no_failed_one_is_kept_in_any_order(bank, program):
    await bank.elsewhere("UPDATE accounts SET balance = 0, ceiling = 0")
    expected, ended = {"balance": 0, "ceiling": 0}, True
    async with bank.scope():
        kept: list[Account] = []

        async def add(how: str, column: str) -> None:
            if how in ("kept", "refresh") and kept:
                account = kept[0]
                if how == "refresh":
                    await bank.session.refresh(account)
            else:
                account = await bank.session.get_one(Account, 1)
                kept.append(account)
            setattr(account, column, getattr(account, column) + 1)
            if how == "fail":
                raise LookupError

        for how, column in program:
            if how == "elsewhere":
                await bank.elsewhere(f"UPDATE accounts SET {column} = {column} + 1")
                expected[column] += 1
            elif how == "look":
                kept.append(await bank.session.get_one(Account, 1))
                assert getattr(kept[-1], column) == expected[column] or not ended
                ended = False
            else:
                ended = True
                try:
                    await bank.do(lambda how=how, column=column: add(how, column))
                except (LookupError, StaleObjectError, DetachedInstanceError):
                    pass  # an object of a failed command can neither be changed nor read
                else:
                    expected[column] += 1
            assert await bank.stored() == expected["balance"]
            assert await bank.stored("ceiling") == expected["ceiling"]
