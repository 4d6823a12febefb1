"""Invalid declarations of messages are reported at the start, all in one report."""

from typing import Any, ClassVar

import pytest
from dependency_injector import containers, providers

from mediator import (
    AuthorizationBehavior,
    Authorizer,
    Command,
    Concurrent,
    DistributedEvent,
    MessageContext,
    Notification,
    NotificationHandler,
    RequestHandler,
    StreamRequest,
)
from mediator.dependency_injector import MediatorProvider, validate
from mediator.errors import ContainerValidationError, SettingError


class CommandAndNotification(Command[str], Notification):
    pass


class CommandAndStream(Command[str], StreamRequest[str]):
    pass


class EventAndNotification(DistributedEvent, Notification):
    event_type: ClassVar[str] = "shop.both"


class Shouted(Notification):
    publish_strategy = Concurrent  # type: ignore[assignment]  # the fault


def handler(kind: Any, message: Any) -> Any:
    class Handler(kind[message]):  # type: ignore[misc,valid-type]  # whatever the test is about
        async def handle(self, message: Any) -> Any: ...

    return Handler


def problems(*classes: Any, **more: Any) -> list[tuple[str, str]]:
    container: Any = containers.DynamicContainer()
    container.mediator = MediatorProvider(behaviors=providers.List(providers.Factory(AuthorizationBehavior)))
    for number, cls in enumerate(classes):
        setattr(container, f"h{number}", providers.Factory(cls))
    with pytest.raises(ContainerValidationError) as caught:
        validate(container, **more)
    return [(each.label, each.text) for each in caught.value.problems]


@pytest.mark.parametrize(
    ("kind", "message", "kinds"),
    [
        (RequestHandler, (CommandAndNotification, str), "a Request and a Notification"),
        (RequestHandler, (CommandAndStream, str), "a Request and a StreamRequest"),
        (NotificationHandler, EventAndNotification, "a Notification and a DistributedEvent"),
    ],
)
def test_a_message_of_several_kinds_is_reported(kind: Any, message: Any, kinds: str):
    found = problems(handler(kind, message))
    assert any(label == "container.h0" and f"is {kinds}, which are" in text for label, text in found)


def test_a_message_of_several_kinds_is_reported_if_only_an_authorizer_names_it():
    class Nobody(Authorizer[CommandAndNotification]):
        async def authorize(self, _message: Any, _context: MessageContext) -> bool:
            return False

    assert any("is a Request and a Notification" in text for _, text in problems(Nobody))


def test_a_notification_with_an_invalid_strategy_is_reported():
    ((label, text),) = problems(handler(NotificationHandler, Shouted))
    assert label == "container.h0"
    assert text.startswith("Shouted.publish_strategy: The setting strategy=")
    assert "Write `strategy=Concurrent()`" in text


def test_a_mediator_with_an_invalid_strategy_is_refused_at_its_declaration():
    with pytest.raises(SettingError, match=r"Write `strategy=Concurrent\(\)`"):
        MediatorProvider(strategy=Concurrent)  # type: ignore[arg-type]  # the fault
