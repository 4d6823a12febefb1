import sys
import textwrap
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from dependency_injector import containers, providers

from mediator.dependency_injector import MediatorProvider, Scoped, lifespan, validate
from mediator.distributed.behaviors import DistributedUnitOfWorkBehavior
from mediator.distributed.events import DistributedEvent
from mediator.distributed.inbox import DistributedEventHandler, EventConsumer
from mediator.distributed.outbox import OutboxRelay
from mediator.errors import ContainerValidationError
from mediator.messages import Command
from tests.adapters.dependency_injector.shop import UnitOfWork


def problems_of(container, **options):
    with pytest.raises(ContainerValidationError) as caught:
        validate(container, **options)
    return [(problem.label, problem.subject, problem.text) for problem in caught.value.problems]


class Consumer(EventConsumer):
    def __init__(self) -> None:
        pass


class Relay(OutboxRelay):
    def __init__(self) -> None:
        pass


def event(event_type, version=1, name="Event"):
    return type(
        name, (DistributedEvent,), {"event_type": event_type, "event_version": version, "__module__": "shipping"}
    )


def handler_of(event_class):
    class Handler(DistributedEventHandler[event_class]):
        async def handle(self, event): ...

    Handler.__module__ = "shipping.handlers"
    return Handler


def container_of(*event_classes):
    container = containers.DynamicContainer()
    container.mediator = MediatorProvider()
    container.consumer = providers.Singleton(Consumer)
    for number, event_class in enumerate(event_classes):
        setattr(container, f"handler_{number}", providers.Factory(handler_of(event_class)))
    return container


def test_handlers_of_events_with_distinct_types_are_valid():
    validate(
        container_of(event("shipping.sent"), event("shipping.sent", 2, "Other"), event("shipping.lost", name="Lost"))
    )


@pytest.mark.parametrize("event_type", ["", "sent", "shipping.Sent", "a.b.c", None, 3])
def test_a_handled_event_needs_a_valid_type(event_type):
    ((label, subject, text),) = problems_of(container_of(event(event_type)))
    assert (label, subject) == ("container.handler_0", "shipping.Event")
    assert "Declare `event_type" in text


def test_a_handled_event_needs_a_valid_version():
    ((_, _, text),) = problems_of(container_of(event("shipping.sent", 0)))
    assert "has the event_version 0" in text


def test_two_event_classes_must_not_share_a_type_and_version():
    ((label, subject, text),) = problems_of(container_of(event("shipping.sent"), event("shipping.sent", name="Other")))
    assert (label, subject) == ("container.handler_1", "shipping.Other")
    assert text.startswith("has the type shipping.sent.v1, and so has shipping.Event.")


def test_several_handlers_of_one_event_and_a_stale_copy_of_its_class_are_no_conflict():
    @dataclass(slots=True)
    class Sent(DistributedEvent):
        event_type: ClassVar[str] = "shipping.sent"
        number: int

    ghosts = [cls for cls in DistributedEvent.__subclasses__() if cls.__name__ == "Sent"]
    validate(container_of(Sent, Sent, *ghosts))


@pytest.fixture
def shipping():
    sources = {
        "shipping_app": "",
        "shipping_app.events": """
            from dataclasses import dataclass
            from typing import ClassVar
            from mediator.distributed.events import DistributedEvent

            class ShippingEvent(DistributedEvent):
                pass

            @dataclass(frozen=True, slots=True)
            class Sent(ShippingEvent):
                event_type: ClassVar[str] = "shipping.sent"
                number: int

            class Undeclared(ShippingEvent):
                pass

            def local():
                class Local(ShippingEvent):
                    pass
                return Local

            kept = local()
            """,
        "shipping_app.more.events": """
            from shipping_app.events import ShippingEvent

            class SentAgain(ShippingEvent):
                event_type = "shipping.sent"
            """,
        "shipping_application": """
            from mediator.distributed.events import DistributedEvent

            class Foreign(DistributedEvent):
                pass
            """,
    }
    for name, source in sources.items():
        module = sys.modules[name] = type(sys)(name)
        exec(textwrap.dedent(source), module.__dict__)
    yield
    for name in sources:
        del sys.modules[name]


def test_events_that_are_only_raised_are_checked_in_the_packages_of_the_handlers(shipping):
    container = container_of(event("shipping.lost"))
    validate(container)
    container.handler_0.provides.__module__ = "shipping_app.handlers"
    found = problems_of(container)
    assert [(label, subject) for label, subject, _ in found] == [
        ("container.mediator", "shipping_app.events.Undeclared"),
        ("container.mediator", "shipping_app.more.events.SentAgain"),
    ]
    assert "and so has shipping_app.events.Sent" in found[1][2]


def test_a_handler_of_events_needs_a_consumer():
    container = container_of(event("shipping.sent"))
    del container.consumer
    ((label, subject, text),) = problems_of(container)
    assert (label, subject) == ("container.handler_0", "Handler")
    assert "add a provider of an EventConsumer" in text


class BillingCommand(Command[Any]):
    pass


class BillingTransaction(DistributedUnitOfWorkBehavior[BillingCommand]):
    pass


def transactional(*arguments, relay=False, behavior=DistributedUnitOfWorkBehavior, **options):
    container = containers.DynamicContainer()
    container.unit_of_work = Scoped(UnitOfWork)
    container.broker = Scoped(list)
    container.outbox = providers.Singleton(list)
    container.publisher = providers.Singleton(list)
    chosen = [getattr(container, name) for name in arguments]
    given = {key: getattr(container, key) if value is True else value for key, value in options.items()}
    made = providers.Factory(behavior)
    made.add_args(providers.Factory(make_anything), providers.Factory(make_anything), *map(anything, chosen))
    made.add_kwargs(
        **{key: anything(value) if key in {"outbox", "publisher"} else value for key, value in given.items()}
    )
    container.transaction = made
    container.mediator = MediatorProvider(behaviors=providers.List(made))
    if relay:
        container.relay = providers.Singleton(Relay)
    return container


def make_anything():
    return object()


def anything(provider):
    return providers.Factory(make_anything) if provider is not None else None


RELAY = "an outbox that no relay empties"
OUTBOX = "has no outbox"
PUBLISHER = "no publisher"


@pytest.mark.parametrize(
    ("container", "options", "expected"),
    [
        (transactional("outbox", relay=True), {}, []),
        (transactional(outbox=True, relay=True, delivery="outbox"), {}, []),
        (transactional("outbox"), {"relay_elsewhere": True}, []),
        (transactional(delivery="direct", publisher=True), {}, []),
        (transactional(delivery=providers.Object("direct"), publisher=True), {}, []),
        (transactional("outbox"), {}, [RELAY]),
        (transactional("outbox", behavior=BillingTransaction, delivery="outbox"), {}, [RELAY]),
        (transactional(), {}, [OUTBOX, RELAY]),
        (transactional(relay=True), {}, [OUTBOX]),
        (transactional(outbox=None, relay=True), {}, [OUTBOX]),
        (transactional("outbox", delivery="direct"), {}, [PUBLISHER]),
    ],
)
def test_stored_events_need_an_outbox_and_a_relay_and_direct_delivery_a_publisher(container, options, expected):
    found = problems_of(container, **options) if expected else validate(container, **options) or []
    assert [text in problem[2] for problem, text in zip(found, expected, strict=True)] == [True] * len(expected)
    assert {problem[0] for problem in found} <= {"container.transaction"}


def test_a_unit_of_work_that_chooses_its_delivery_itself_is_not_checked():
    class Deciding(DistributedUnitOfWorkBehavior):
        def __init__(self, first, second):
            super().__init__(first, second, delivery="direct", publisher=object())

    validate(transactional(behavior=Deciding))


async def test_the_lifespan_accepts_the_promise_of_a_relay_in_another_process():
    container = transactional("outbox")
    async with lifespan(container, relay_elsewhere=True):
        pass
    with pytest.raises(ContainerValidationError):
        async with lifespan(container):
            pass
