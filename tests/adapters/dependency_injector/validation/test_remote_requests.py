from dataclasses import dataclass
from typing import ClassVar

import pytest
from dependency_injector import containers, providers

from mediator import Query, RequestHandler
from mediator.dependency_injector import MediatorProvider, lifespan, validate
from mediator.dependency_injector.workers import worker_providers
from mediator.distributed.requests import RequestResponder, trust_broker
from mediator.errors import ContainerValidationError
from mediator.testing import InMemoryRequestChannel


@dataclass(frozen=True)
class Find(Query[str]):
    request_type: ClassVar[str] = "shop.find"


@dataclass(frozen=True)
class FindToo(Query[str]):
    request_type: ClassVar[str] = "shop.find"


@dataclass(frozen=True)
class Unnamed(Query[str]):
    pass


@dataclass(frozen=True)
class Unhandled(Query[str]):
    request_type: ClassVar[str] = "shop.unhandled"


class FindHandler(RequestHandler[Find | FindToo | Unnamed, str]):
    async def handle(self, query):
        return "found"


def container_exposing(*request_classes):
    class Container(containers.DeclarativeContainer):
        channel = providers.Singleton(InMemoryRequestChannel)
        mediator = MediatorProvider()
        find = providers.Factory(FindHandler)
        responder = providers.Singleton(
            RequestResponder, channel, mediator, exposes=list(request_classes), authenticate=trust_broker
        )

    return Container()


async def test_a_responder_runs_as_a_worker():
    container = container_exposing(Find)
    assert [label for label, _ in worker_providers(container)] == ["container.responder"]
    async with lifespan(container, workers=True):
        pass


def test_every_class_that_cannot_be_exposed_is_a_fault():
    with pytest.raises(ContainerValidationError) as caught:
        validate(container_exposing(Find, FindToo, Unnamed, Unhandled))
    problems = {(p.label, p.subject): p.text for p in caught.value.problems}
    assert set(problems) == {("container.responder", name) for name in ("FindToo", "Unnamed", "Unhandled")}
    assert "and so is Find" in problems["container.responder", "FindToo"]
    assert "has no request_type" in problems["container.responder", "Unnamed"]
    assert "the container has no handler for it" in problems["container.responder", "Unhandled"]
