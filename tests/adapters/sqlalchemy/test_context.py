"""The message context in log lines, in events, and in the calls after a commit."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from mediator import MessageContext, NotificationHandler, OutboxRelay, current_context
from mediator.binding import Binding
from mediator.distributed.cloudevents import CloudEvent
from mediator.distributed.outbox import EventPublisher, PublishResult
from mediator.errors import EventRefusedError
from mediator.registry import Registry
from tests.adapters.sqlalchemy.ledger import Do, Ledger, Noted, Write

ADA = MessageContext("request", "flow", None, "ada", "acme", {"authorization": "secret"})


async def fail(_ledger: Ledger) -> None:
    raise LookupError("on purpose")


async def test_every_line_about_a_transaction_has_the_context_without_headers(ledger: Ledger) -> None:
    with capture_logs() as logs:
        await ledger.send(Write("a"), context=ADA)
        with pytest.raises(LookupError):
            await ledger.send(Write("b", then=fail), context=ADA)
    assert [line["event"] for line in logs] == [
        "transaction begun",
        "transaction committed",
        "transaction begun",
        "transaction rolled back",
    ]
    keys = ("correlation_id", "causation_id", "principal", "tenant")
    assert {tuple(line[key] for key in keys) for line in logs} == {("flow", "request", "ada", "acme")}
    assert logs[0]["message_id"] == logs[1]["message_id"] != logs[2]["message_id"]
    assert "secret" not in str(logs)


async def test_events_are_stored_with_the_tenant_and_without_principal_and_headers(ledger: Ledger) -> None:
    async def act(ledger: Ledger) -> str:
        await ledger.send(Write("a"))
        return current_context().message_id

    await ledger.send(Do(act), context=ADA)
    async with ledger.outbox.claim(10) as batch:
        (event,) = batch.events
    assert event.extensions.keys() == {"correlationid", "causationid", "tenant"}
    assert (event.extensions["correlationid"], event.extensions["tenant"]) == ("flow", "acme")


async def test_a_message_published_after_the_commit_inherits_the_context_of_its_sender(ledger: Ledger) -> None:
    seen: list[MessageContext] = []
    asked: list[MessageContext] = []

    class See(NotificationHandler[Noted]):
        async def handle(self, notification: Noted, /) -> None:
            seen.append(current_context())

    async def inner(ledger: Ledger) -> None:
        asked.append(current_context())
        ledger.mediator.publish_after_commit(Noted("later"))

    async def outer(ledger: Ledger) -> None:
        async with ledger.mediator.context(principal="system"):
            await ledger.send(Do(inner))

    registry = ledger.mediator.registry
    ledger.mediator.rebind(
        Registry([*registry.handlers, Binding(See, See, "see", NotificationHandler)], registry.behaviors)
    )
    await ledger.send(Do(outer), context=ADA)
    assert seen == [asked[0].caused(seen[0].message_id)]
    assert (seen[0].principal, seen[0].tenant, seen[0].correlation_id) == ("system", "acme", "flow")


class Refusing(EventPublisher):
    async def publish(self, events: Sequence[CloudEvent], /) -> Sequence[PublishResult]:
        return [PublishResult(event, EventRefusedError(event.id, event.type, "too odd")) for event in events]


async def test_the_relay_logs_the_context_of_a_refused_event(ledger: Ledger) -> None:
    ids: list[Any] = []

    async def note(_ledger: Ledger) -> None:
        ids.append(current_context().message_id)

    await ledger.send(Write("a", then=note), context=ADA)
    with capture_logs() as logs:
        relay = asyncio.create_task(OutboxRelay(ledger.outbox, Refusing()).run())
        async with asyncio.timeout(10):
            while not any(line["event"] == "event refused" for line in logs):
                await asyncio.sleep(0.01)
        relay.cancel()
        await asyncio.wait([relay])
    line = next(line for line in logs if line["event"] == "event refused")
    assert (line["correlation_id"], line["message_id"], line["tenant"]) == ("flow", ids[0], "acme")


async def test_a_manual_unit_of_work_has_the_context_of_its_enclosing_scope(ledger: Ledger) -> None:
    mediator = ledger.mediator
    with capture_logs() as logs:
        async with mediator.context(tenant="outside"), mediator.scope(), ledger.unit_of_work:
            async with mediator.context(principal="inside"):
                await ledger.send(Write("a"))
            await ledger.write("b")
        async with mediator.scope(), mediator.context(tenant="within"), ledger.unit_of_work:
            await ledger.send(Write("c"))
    committed = [line for line in logs if line["event"] == "transaction committed"]
    assert [(line["tenant"], line.get("principal")) for line in committed] == [("outside", None), ("within", None)]
    assert await ledger.entries() == ["a", "b", "c"]
