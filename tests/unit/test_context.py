"""MessageContext: the ids, the cause and the caller of a message."""

import itertools
import uuid
from typing import Any

import pytest

from mediator import MessageContext, TransactionMode, current_context
from mediator.context import new_id
from mediator.errors import ScopeError
from tests.unit.samples import EnrollStudent, ExpelStudent, StudentChanged
from tests.unit.wiring import handles, listens, wire


def counter() -> Any:
    numbers = itertools.count(1)
    return lambda: f"id-{next(numbers)}"


async def see(_message: Any) -> MessageContext:
    return current_context()


@pytest.mark.parametrize("mode", TransactionMode)
async def test_a_message_inherits_the_correlation_and_names_its_cause_in_every_mode(mode: TransactionMode):
    async def outer(_message: Any) -> Any:
        return current_context(), await mediator.send(ExpelStudent(), mode=mode)

    mediator = wire(handles(EnrollStudent, outer), handles(ExpelStudent, see), ids=counter())
    assert await mediator.send(EnrollStudent()) == (
        MessageContext("id-1", "id-1", None),
        MessageContext("id-2", "id-1", "id-1"),
    )


async def test_causation_is_a_chain():
    seen: list[MessageContext] = []

    async def outer(_message: Any) -> None:
        await mediator.send(ExpelStudent())

    async def middle(_message: Any) -> None:
        await mediator.publish(StudentChanged())

    async def last(_message: Any) -> None:
        seen.append(current_context())

    parts = [handles(EnrollStudent, outer), handles(ExpelStudent, middle), listens(StudentChanged, last)]
    mediator = wire(*parts, ids=counter())
    async with mediator.scope(context=MessageContext("request", "flow", "browser")):
        await mediator.send(EnrollStudent())
    assert len(seen) == 1
    assert seen[0].correlation_id == "flow"
    assert seen[0].causation_id not in {None, "request", "browser"}


async def test_a_given_context_is_the_cause_of_the_messages_dispatched_inside():
    mediator = wire(handles(EnrollStudent, see), ids=counter())
    given = MessageContext("request", "flow")
    async with mediator.scope(context=given):
        assert current_context() is given
        assert await mediator.send(EnrollStudent()) == MessageContext("id-1", "flow", "request")


async def test_ids_are_generated_on_first_access_and_only_once():
    drawn: list[str] = []

    def ids() -> str:
        drawn.append(str(len(drawn)))
        return drawn[-1]

    async def twice(_message: Any) -> None:
        assert current_context() is current_context()

    async def never(_message: Any) -> None:
        return None

    mediator = wire(handles(EnrollStudent, never), handles(ExpelStudent, twice), ids=ids)
    await mediator.send(EnrollStudent())
    assert drawn == []
    await mediator.send(ExpelStudent())
    assert drawn == ["0"]


def test_current_context_raises_outside_a_dispatch():
    with pytest.raises(ScopeError, match="the message context"):
        current_context()


def test_ids_are_random_uuids():
    assert uuid.UUID(new_id()).version == 4
    assert new_id() != new_id()


def test_an_inner_message_keeps_the_correlation_id():
    assert MessageContext("a", "flow").caused("b") == MessageContext("b", "flow", "a")
