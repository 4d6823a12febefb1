"""Upcasters are checked with the rest of the wiring, before anything starts."""

import sys
from typing import Any

import pytest
from dependency_injector import containers, providers

from mediator import DistributedEvent, DistributedEventHandler, EventConsumer
from mediator.dependency_injector import MediatorProvider, Scoped, validate
from mediator.errors import ContainerValidationError
from mediator.msgspec import MsgspecCodec
from mediator.testing import InMemoryDatabase, InMemoryUnitOfWork


def lift(data: dict[str, Any]) -> dict[str, Any]:
    return data


class Consumer(EventConsumer):
    def __init__(self) -> None:
        pass


class Opaque:
    content_type = "text/plain"

    def encode(self, event: DistributedEvent, /) -> bytes:
        raise NotImplementedError

    def decode(self, data: bytes, event_class: Any, /) -> Any:
        raise NotImplementedError


def event(version: int, upcasters: Any = None, name: str = "Parcel") -> Any:
    members = {"event_type": "lifting.sent", "event_version": version, "__module__": "lifting"}
    return type(name, (DistributedEvent,), members | ({} if upcasters is None else {"upcasters": upcasters}))


def container_of(*event_classes: Any, codec: Any = None) -> Any:
    container: Any = containers.DynamicContainer()
    container.mediator = MediatorProvider()
    container.consumer = providers.Singleton(Consumer)
    container.database = providers.Singleton(InMemoryDatabase)
    options = {} if codec is None else {"codec": codec}
    container.unit_of_work = Scoped(InMemoryUnitOfWork, container.database, **options)
    for number, event_class in enumerate(event_classes):

        class Handler(DistributedEventHandler[event_class]):
            async def handle(self, event: Any) -> None: ...

        Handler.__module__ = "lifting.handlers"
        setattr(container, f"handler_{number}", providers.Factory(Handler))
    return container


def problems_of(container: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(ContainerValidationError) as caught:
        validate(container)
    return [(problem.label, problem.subject, problem.text) for problem in caught.value.problems]


def test_a_complete_chain_and_a_chain_with_a_later_start_are_valid():
    validate(container_of(event(3, {1: lift, 2: lift})))
    validate(container_of(event(3, {2: lift})))
    validate(container_of(event(1, name="SentV1"), event(2, name="SentV2")))


@pytest.mark.parametrize(
    ("version", "upcasters", "text"),
    [
        (3, {1: lift}, "has no upcaster from version 2"),
        (2, {1: lift, 2: lift}, "from version 2, but is itself version 2"),
        (2, {1: lift, 5: lift}, "from version 5, but is itself version 2"),
        (2, {1: "lift"}, "that is not callable"),
        (2, [lift], "has upcasters that are of type list"),
    ],
)
def test_a_broken_chain_of_upcasters_is_found(version: int, upcasters: Any, text: str):
    ((label, subject, found),) = problems_of(container_of(event(version, upcasters)))
    assert (label, subject) == ("container.handler_0", "lifting.Parcel")
    assert text in found
    assert "Declare a plain function for each older version" in found


def test_an_async_upcaster_is_found():
    async def lift_later(data: dict[str, Any]) -> dict[str, Any]:
        return data

    ((_, _, found),) = problems_of(container_of(event(2, {1: lift_later})))
    assert "from version 1 that is async" in found


def test_a_version_with_a_class_and_an_upcaster_in_another_class_is_found():
    ((label, subject, text),) = problems_of(container_of(event(1, name="Old"), event(2, {1: lift}, "New")))
    assert (label, subject) == ("container.handler_1", "lifting.New")
    assert text.startswith("upcasts lifting.sent.v1 to its own version, but lifting.Old also reads lifting.sent.v1.")


def test_a_version_with_upcasters_in_two_classes_is_found():
    found = problems_of(container_of(event(3, {1: lift, 2: lift}, "Newest"), event(2, {1: lift}, "New")))
    assert [subject for _, subject, _ in found] == ["lifting.Newest", "lifting.Newest"]
    assert ["lifting.sent.v1" in found[0][2], "lifting.sent.v2" in found[1][2]] == [True, True]


@pytest.fixture
def lifting(monkeypatch):
    module = type(sys)("lifting")
    monkeypatch.setitem(sys.modules, "lifting", module)
    return module


def test_a_class_that_is_only_raised_does_not_conflict_with_the_upcaster_of_its_version(lifting):
    lifting.Old = event(1, name="Old")
    validate(container_of(event(2, {1: lift}, "New")))


def test_the_upcasters_of_a_class_without_handlers_are_checked(lifting):
    lifting.Declared = event(3, {1: lift}, "Declared")
    ((label, subject, _),) = problems_of(container_of(event(4, name="Handled")))
    assert (label, subject) == ("container.mediator", "lifting.Declared")


@pytest.mark.parametrize("codec", [Opaque(), providers.Singleton(Opaque), providers.Object(Opaque())])
def test_a_codec_without_plain_data_is_found_only_if_there_are_upcasters(codec: Any):
    validate(container_of(event(2), codec=codec))
    ((label, subject, text),) = problems_of(container_of(event(2, {1: lift}), codec=codec))
    assert (label, subject) == ("container.unit_of_work", "Opaque")
    assert "lacks `decode_data` or `convert`" in text


@pytest.mark.parametrize(
    "codec", [None, MsgspecCodec(), providers.Singleton(MsgspecCodec), providers.Callable(MsgspecCodec)]
)
def test_codecs_with_plain_data_are_valid(codec: Any):
    validate(container_of(event(2, {1: lift}), codec=codec))
