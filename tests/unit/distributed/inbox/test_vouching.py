"""The caller of an event: its tenant counts only if an authenticator vouches for it."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from mediator import MessageContext, current_context
from mediator.distributed.callers import Caller
from mediator.distributed.cloudevents import CloudEvent
from mediator.errors import NotAuthorizedError
from tests.unit.distributed.inbox.application import TYPE, Application

CE = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "shop", "ce-type": f"{TYPE}.v1", "ce-tenant": "acme"}
BODY = b'{"number": 7}'


async def signed(event: CloudEvent) -> Caller | None:
    """An authenticator, as if it checked a signature."""
    signature = event.extensions.get("signature")
    if signature == "forged":
        raise NotAuthorizedError(event.type, None, "its signature is not valid")
    return Caller("shop", event.extensions["tenant"]) if signature else None


async def handled(headers: dict[str, str], **options: Any) -> tuple[Application, list[MessageContext]]:
    application = Application(options)
    seen: list[MessageContext] = []

    async def look(_event: Any) -> None:
        seen.append(current_context())

    application.acts[7] = look
    application.broker.store_message(TYPE, {**CE, **headers}, BODY)
    async with application.running():
        await application.settled(1)
    return application, seen


async def test_the_tenant_of_an_event_is_trusted_by_default():
    _, (context,) = await handled({})
    assert (context.principal, context.tenant, context.vouched_by) == (None, "acme", "trust_stream")


async def test_a_tenant_that_the_authenticator_does_not_vouch_for_stays_unverified_and_is_not_passed_on():
    application, (context,) = await handled({}, authenticate=signed)
    assert (context.tenant, context.vouched_by, context.unverified.tenant) == (None, None, "acme")
    (reserved,) = application.database.outbox
    assert "tenant" not in reserved.extensions


async def test_an_event_is_handled_for_the_caller_that_its_authenticator_vouches_for():
    application, (context,) = await handled({"ce-signature": "good"}, authenticate=signed)
    assert (context.principal, context.tenant, context.vouched_by) == ("shop", "acme", "signed")
    (reserved,) = application.database.outbox
    assert reserved.extensions["tenant"] == "acme"


async def test_an_event_that_its_authenticator_refuses_is_parked_at_once_and_can_be_replayed_once_accepted():
    with capture_logs() as logs:
        application, seen = await handled({"ce-signature": "forged"}, authenticate=signed)
    assert (seen, application.parked()) == ([], [("1", "fatal-error", 1)])
    assert "its signature is not valid" in application.parking.events[0].error
    (line,) = (line for line in logs if line["event"] == "event parked")
    assert "tenant" not in line

    async def lenient(_event: CloudEvent) -> Caller:
        return Caller(tenant="acme")

    (parked,) = application.parking.events
    await application.consuming(authenticate=lenient).replay(parked)
    assert ([context.tenant for context in seen], application.parked()) == (["acme"], [])


@pytest.mark.parametrize("returned", ["acme", ("shop", "acme"), True])
async def test_an_authenticator_that_returns_another_object_accepts_no_event(returned):
    async def sloppy(_event: CloudEvent) -> Any:
        return returned

    application, seen = await handled({}, authenticate=sloppy)
    assert (seen, application.parked()) == ([], [("1", "fatal-error", 1)])


async def test_a_failing_authenticator_is_retried_like_a_handler():
    failures = [OSError("the keys are away")]

    async def flaky(_event: CloudEvent) -> Caller:
        if failures:
            raise failures.pop()
        return Caller(tenant="acme")

    application, (context,) = await handled({}, authenticate=flaky, retry_delays=(0.0,))
    assert (context.tenant, application.effects) == ("acme", [7])
