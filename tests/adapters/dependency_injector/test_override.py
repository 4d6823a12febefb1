import asyncio
from contextlib import asynccontextmanager
from typing import Any

import pytest
from dependency_injector import containers, providers

from mediator.dependency_injector import MediatorProvider, Scoped, lifespan, override
from mediator.errors import ContainerError, NotFoundError

from .shop import CountOrders, CountOrdersHandler, PlaceOrder, PlaceOrderHandler, Seen, Spy, UnitOfWork


class Box:
    def __init__(self, content: Any) -> None:
        self.content = content


@asynccontextmanager
async def connect():
    yield "connection"


def gateway():
    return "gateway"


class Billing(containers.DeclarativeContainer):
    gateway = providers.Factory(gateway)


class App(containers.DeclarativeContainer):
    connection = providers.Resource(connect)
    service = providers.Singleton(Box, connection)
    other = providers.Singleton(Box, 1)
    user = providers.Factory(Box, service)
    inline = providers.Factory(Box, providers.Singleton(Box, service))
    billing = providers.Container(Billing)
    paying = providers.Singleton(Box, billing.gateway)
    mediator = MediatorProvider()
    count_orders = providers.Factory(CountOrdersHandler)


async def test_singletons_that_use_an_overridden_provider_are_rebuilt_and_others_are_kept():
    async with lifespan(App()) as container:
        other = container.other()
        assert container.user().content.content == "connection"
        assert container.inline().content.content.content == "connection"
        with override(container, connection="fake") as same:
            assert same is container
            assert container.user().content.content == "fake"
            assert container.inline().content.content.content == "fake"
            assert container.other() is other
        assert container.user().content.content == "connection"
        assert container.inline().content.content.content == "connection"


async def test_an_override_may_make_a_synchronous_dependency_asynchronous_temporarily():
    async def make():
        await asyncio.sleep(0)
        return "asynchronous"

    async with lifespan(App()) as container:
        assert container.user().content.content == "connection"
        with override(container, connection=providers.Coroutine(make)):
            assert (await container.user()).content.content == "asynchronous"
        assert container.user().content.content == "connection"


def test_two_underscores_lead_into_a_nested_container():
    container = App()
    with override(container, billing__gateway="fake"):
        assert container.paying().content == "fake"
    assert container.paying().content == "gateway"


def test_overrides_nest():
    container = App()
    with override(container, billing__gateway="outer"):
        with override(container, billing__gateway="inner"):
            assert container.paying().content == "inner"
        assert container.paying().content == "outer"


@pytest.mark.parametrize(
    ("name", "nearest"), [("conection", "'connection'"), ("billing__gatewy", "'billing__gateway'"), ("billing", "")]
)
def test_an_unknown_name_is_an_error_and_nothing_is_replaced(name, nearest):
    container = App()
    with pytest.raises(NotFoundError, match="has no provider") as caught, override(container, other=2, **{name: 1}):
        raise AssertionError("entered")
    assert nearest in str(caught.value)
    assert container.other().content == 1


async def test_an_error_inside_restores_everything():
    container = App()
    with pytest.raises(ValueError, match="inside"), override(container, connection="fake", billing__gateway="fake"):
        assert container.service().content == "fake"
        raise ValueError("inside")
    async with lifespan(container):
        assert container.service().content == "connection"
        assert container.paying().content == "gateway"


async def test_an_overridden_resource_is_not_started_and_no_infrastructure_is_needed():
    def never():
        raise AssertionError("started")

    container = App()
    container.connection = providers.Resource(never)
    with override(container, connection="fake"):
        async with lifespan(container):
            assert await container.mediator().send(CountOrders()) == 7


async def test_a_dependency_of_a_started_resource_cannot_be_overridden():
    container = App()
    container.pool = providers.Resource(Box, container.connection)
    async with lifespan(container):
        with (
            pytest.raises(ContainerError, match="cannot be replaced now: a started"),
            override(container, connection="fake"),
        ):
            raise AssertionError("entered")
    with override(container, connection="fake"):
        async with lifespan(container):
            assert container.pool().content == "fake"


async def test_an_overridden_list_of_behaviors_reaches_a_mediator_that_was_resolved_before():
    class WithBehaviors(containers.DeclarativeContainer):
        seen = providers.Singleton(Seen)
        behaviors = providers.List(providers.Factory(Spy, seen))
        mediator = MediatorProvider(behaviors=behaviors)
        place_order = providers.Factory(PlaceOrderHandler, None, mediator)

    async with lifespan(WithBehaviors()) as container:
        mediator, seen = container.mediator(), container.seen()
        with override(container, behaviors=[]):
            await mediator.send(PlaceOrder())
        assert seen.items == []
        await mediator.send(PlaceOrder())
        assert seen.items == ["PlaceOrder"]


async def test_a_scoped_provider_stays_scoped():
    class Fake(UnitOfWork):
        pass

    class WithScope(containers.DeclarativeContainer):
        unit_of_work = Scoped(UnitOfWork)
        mediator = MediatorProvider()

    async with lifespan(WithScope()) as container:
        with override(container, unit_of_work=providers.Factory(Fake)):
            async with container.mediator().scope():
                fake = container.unit_of_work()
                assert type(fake) is Fake
                assert container.unit_of_work() is fake
        assert fake.closed


def test_a_container_class_is_refused():
    with pytest.raises(ContainerError, match="container class App"), override(App, other=1):
        raise AssertionError("entered")
