import copy
import sys
import textwrap
from typing import Any, Generic, TypeVar

import pytest
from dependency_injector import containers, providers

from mediator.dependency_injector import MediatorProvider, Scoped, lifespan
from mediator.errors import ContainerError, ContainerValidationError, MisuseError
from mediator.handlers import NotificationHandler, RequestHandler
from mediator.mediator import Mediator
from mediator.messages import Notification, Request
from mediator.pipeline import PipelineBehavior

from .shop import (
    CountOrders,
    CountOrdersHandler,
    OrderId,
    OrderPlaced,
    Orders,
    PlaceOrder,
    PlaceOrderHandler,
    RememberOrder,
    Seen,
    Spy,
    UnitOfWork,
)


class Shop(containers.DeclarativeContainer):
    seen = providers.Singleton(Seen)
    unit_of_work = Scoped(UnitOfWork)
    orders = providers.Factory(Orders, unit_of_work)
    spy = providers.Factory(Spy, seen)
    behaviors = providers.List(spy)
    mediator = MediatorProvider(behaviors=behaviors)
    place_order = providers.Factory(PlaceOrderHandler, orders, mediator)
    count_orders = providers.Factory(CountOrdersHandler)
    remember_order = providers.Factory(RememberOrder, seen, unit_of_work)


def labels(container):
    return [binding.label for binding in container.mediator().registry.handlers]


async def test_handlers_are_found_by_type_in_the_order_of_declaration():
    container = Shop()
    assert labels(container) == ["container.place_order", "container.count_orders", "container.remember_order"]
    async with lifespan(container):
        assert await container.mediator().send(PlaceOrder(5)) == 5
        name, (order_id, unit_of_work) = container.seen().items
    assert (name, order_id, unit_of_work.closed) == ("PlaceOrder", 5, True)


async def test_the_mediator_is_one_object_and_works_only_in_the_lifespan():
    container = Shop()
    mediator = container.mediator()
    with pytest.raises(MisuseError, match="outside the lifespan"):
        await mediator.send(CountOrders())
    async with lifespan(container):
        assert container.mediator() is mediator
        assert await mediator.send(CountOrders()) == 7
    with pytest.raises(MisuseError, match="outside the lifespan"):
        await mediator.send(CountOrders())


async def test_describe_names_the_providers():
    text = Shop().mediator().describe(PlaceOrder)
    assert "container.spy" in text
    assert "container.place_order" in text


def test_a_container_class_is_refused():
    with pytest.raises(ContainerError, match=r"container class Shop.*`container = Shop\(\)`"):
        Shop.mediator()


async def test_a_mediator_is_bound_to_its_container_instance_even_in_subclasses_and_copies():
    class Extended(Shop):
        more = providers.Factory(CountOrdersHandler)
        count_orders = providers.Object(None)

    extended = Extended()
    assert labels(extended) == ["container.place_order", "container.remember_order", "container.more"]
    copied = copy.deepcopy(extended)
    assert labels(copied) == labels(extended)
    assert copied.mediator() is not extended.mediator()
    bound = copied.mediator().registry.handlers[0].source
    assert bound is copied.place_order
    async with lifespan(copied):
        assert copied.place_order.kwargs == {}
        async with copied.mediator().scope():
            assert copied.place_order().mediator is copied.mediator()


async def test_a_dynamic_container_can_have_a_mediator():
    container = containers.DynamicContainer()
    container.mediator = MediatorProvider(behaviors=[])
    container.count_orders = providers.Factory(CountOrdersHandler)
    async with lifespan(container):
        assert await container.mediator().send(CountOrders()) == 7


class Ordering(containers.DeclarativeContainer):
    unit_of_work = providers.Dependency(instance_of=UnitOfWork)
    mediator = providers.Dependency(instance_of=Mediator)
    orders = providers.Factory(Orders, unit_of_work)
    place_order = providers.Factory(PlaceOrderHandler, orders, mediator)


class Infrastructure(containers.DeclarativeContainer):
    seen = providers.Singleton(Seen)
    unit_of_work = Scoped(UnitOfWork)


class Noticing(containers.DeclarativeContainer):
    infrastructure = providers.DependenciesContainer()
    remember_order = providers.Factory(RememberOrder, infrastructure.seen, infrastructure.unit_of_work)


class Modular(containers.DeclarativeContainer):
    mediator = MediatorProvider()
    infrastructure = providers.Container(Infrastructure)
    ordering = providers.Container(Ordering, unit_of_work=infrastructure.unit_of_work, mediator=mediator)
    noticing = providers.Container(Noticing, infrastructure=infrastructure)


async def test_modules_share_the_mediator_and_the_unit_of_work():
    container = Modular()
    assert labels(container) == ["container.ordering.place_order", "container.noticing.remember_order"]
    async with lifespan(container, requests=[PlaceOrder]), container.mediator().scope():
        await container.mediator().send(PlaceOrder(3))
        assert container.infrastructure.seen().items == [(3, container.infrastructure.unit_of_work())]


async def test_a_mediator_in_a_nested_container_knows_the_handlers_of_that_container():
    class Whole(containers.DeclarativeContainer):
        module = providers.Container(Shop)
        other = providers.Factory(CountOrdersHandler)

    async with lifespan(Whole()) as container:
        assert labels(container.module) == [
            "container.place_order",
            "container.count_orders",
            "container.remember_order",
        ]
        assert await container.module.mediator().send(CountOrders()) == 7


async def test_an_overridden_list_of_behaviors_takes_effect_at_the_next_resolution_of_the_mediator():
    container = Shop()
    async with lifespan(container):
        with container.behaviors.override(providers.List()):
            await container.mediator().send(PlaceOrder())
            assert "PlaceOrder" not in container.seen().items
        with container.behaviors.override([container.spy, container.spy]):
            await container.mediator().send(PlaceOrder())
        assert container.seen().items.count("PlaceOrder") == 2
        await container.mediator().send(PlaceOrder())
    assert container.seen().items.count("PlaceOrder") == 3


async def test_the_list_of_behaviors_may_come_from_another_container():
    class Module(containers.DeclarativeContainer):
        behaviors = providers.Dependency(instance_of=list)
        mediator = MediatorProvider(behaviors=behaviors)
        place_order = providers.Factory(PlaceOrderHandler, None, mediator)

    class Whole(containers.DeclarativeContainer):
        seen = providers.Singleton(Seen)
        behaviors = providers.List(providers.Factory(Spy, seen))
        module = providers.Container(Module, behaviors=behaviors)

    async with lifespan(Whole()) as container:
        await container.module.mediator().send(PlaceOrder())
        assert container.seen().items == ["PlaceOrder"]


async def test_an_overridden_behavior_or_handler_takes_effect_at_the_next_dispatch():
    class Other(RequestHandler[CountOrders, int]):
        async def handle(self, _):
            return 99

    class Silent(Spy):
        async def handle(self, message, call_next):
            return await call_next()

    container = Shop()
    async with lifespan(container):
        mediator = container.mediator()
        assert await mediator.send(CountOrders()) == 7
        with container.override_providers(count_orders=providers.Factory(Other), spy=providers.Factory(Silent, None)):
            assert await mediator.send(CountOrders()) == 99
            await mediator.send(PlaceOrder())
        assert await mediator.send(CountOrders()) == 7
        assert "PlaceOrder" not in container.seen().items


async def test_the_mediator_can_be_overridden_by_any_object():
    container = Shop()
    with container.mediator.override("fake"):
        assert container.mediator() == "fake"
    assert isinstance(container.mediator(), Mediator)


async def test_a_handler_added_later_is_found_at_the_next_resolution_of_the_mediator():
    container = containers.DynamicContainer()
    container.mediator = MediatorProvider()
    async with lifespan(container):
        mediator = container.mediator()
        container.count_orders = providers.Factory(CountOrdersHandler)
        assert await container.mediator().send(CountOrders()) == 7
        assert container.mediator() is mediator


async def test_a_faulty_handler_added_later_is_refused_and_changes_nothing():
    class CountAgain(CountOrdersHandler):
        pass

    container = containers.DynamicContainer()
    container.mediator = MediatorProvider()
    container.count_orders = providers.Factory(CountOrdersHandler)
    async with lifespan(container):
        mediator = container.mediator()
        container.count_again = providers.Factory(CountAgain)
        for _ in range(2):
            with pytest.raises(ContainerValidationError, match="count_orders.*count_again|count_again.*count_orders"):
                container.mediator()
        assert await mediator.send(CountOrders()) == 7


def make_handler() -> CountOrdersHandler:
    return CountOrdersHandler()


async def make_handler_later() -> CountOrdersHandler:
    return CountOrdersHandler()


class Wrapping(RequestHandler[CountOrders, int]):
    def __init__(self, inner):
        self.inner = inner

    async def handle(self, query):
        return await self.inner.handle(query)


@pytest.mark.parametrize(
    "provider",
    [
        providers.Factory(CountOrdersHandler),
        providers.Singleton(CountOrdersHandler),
        providers.Callable(make_handler),
        providers.Coroutine(make_handler_later),
        providers.Factory(f"{__name__}.CountOrdersHandler"),
        providers.Object(CountOrdersHandler()),
        providers.Resource(make_handler),
        Scoped(CountOrdersHandler),
        providers.Factory(Wrapping, providers.Factory(CountOrdersHandler)),
        providers.Dependency(instance_of=CountOrdersHandler, default=providers.Factory(CountOrdersHandler)),
        providers.Dependency(default=providers.Factory(CountOrdersHandler)),
        providers.Selector(
            providers.Object("one"), one=providers.Factory(CountOrdersHandler), two=providers.Factory(Wrapping, None)
        ),
    ],
    ids=lambda provider: type(provider).__name__,
)
async def test_a_handler_of_any_kind_of_provider_is_found_once(provider):
    class App(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        count_orders = provider

    async with lifespan(App()) as container:
        assert labels(container) == ["container.count_orders"]
        assert await container.mediator().send(CountOrders()) == 7


async def test_a_handler_with_two_names_is_registered_once():
    class Module(containers.DeclarativeContainer):
        handler = providers.Dependency(instance_of=CountOrdersHandler)

    class App(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        count_orders = providers.Factory(CountOrdersHandler)
        alias = count_orders
        later = count_orders.provider
        module = providers.Container(Module, handler=count_orders)

    async with lifespan(App()) as container:
        assert labels(container) == ["container.count_orders"]


async def test_a_handler_passed_on_to_a_nested_container_is_registered_once():
    class Module(containers.DeclarativeContainer):
        handler = providers.Dependency(instance_of=CountOrdersHandler)

    class Whole(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        handler = providers.Dependency(instance_of=CountOrdersHandler)
        module = providers.Container(Module, handler=handler)

    async with lifespan(Whole(handler=providers.Factory(CountOrdersHandler))) as container:
        assert labels(container) == ["container.handler"]
        assert await container.mediator().send(CountOrders()) == 7


async def test_configuration_options_in_a_container_are_left_alone():
    class App(containers.DeclarativeContainer):
        config = providers.Configuration(strict=True)
        chosen = providers.Selector(config.kind, one=providers.Factory(CountOrdersHandler))
        part = chosen.provided.handle
        option = config.a.b.as_int()
        mediator = MediatorProvider()

    assert labels(App()) == ["container.chosen"]


R = TypeVar("R", bound=Request[Any])
N = TypeVar("N", bound=Notification)


class Crud(RequestHandler[R, int], Generic[R]):
    async def handle(self, _):
        return 1


class CountByCrud(Crud[CountOrders]):
    pass


async def test_the_message_of_a_handler_is_found_through_generic_base_classes():
    class App(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        handler = providers.Factory(CountByCrud)

    async with lifespan(App()) as container:
        assert await container.mediator().send(CountOrders()) == 1


if sys.version_info >= (3, 12):
    exec(  # the syntax is new
        textwrap.dedent(
            """
            class NewCrud[T: Request[Any], A](RequestHandler[T, A]):
                async def handle(self, _):
                    return 2

            class CountByNewCrud(NewCrud[CountOrders, int]):
                pass

            async def test_the_message_of_a_handler_is_found_through_type_parameters():
                class App(containers.DeclarativeContainer):
                    mediator = MediatorProvider()
                    handler = providers.Factory(CountByNewCrud)

                async with lifespan(App()) as container:
                    assert await container.mediator().send(CountOrders()) == 2
            """
        )
    )


async def test_a_union_of_notifications_is_handled_by_one_handler():
    class Cancelled(Notification):
        pass

    seen = []

    class Both(NotificationHandler[OrderPlaced | Cancelled]):
        async def handle(self, notification):
            seen.append(type(notification))

    class App(containers.DeclarativeContainer):
        mediator = MediatorProvider()
        both = providers.Factory(Both)

    async with lifespan(App()) as container:
        await container.mediator().publish(OrderPlaced(OrderId(1)))
        await container.mediator().publish(Cancelled())
    assert seen == [OrderPlaced, Cancelled]


class NoBehavior:
    pass


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (NoBehavior, "the class itself"),
        (providers.Factory(NoBehavior), "provides no PipelineBehavior"),
        (providers.Factory(lambda: None), "annotate the return type"),
    ],
)
def test_an_object_that_is_not_a_behavior_is_refused_in_the_list_of_behaviors(item, text):
    class App(containers.DeclarativeContainer):
        mediator = MediatorProvider(behaviors=[item])

    with pytest.raises(ContainerValidationError, match=text):
        App().mediator()


def test_a_behavior_without_a_message_type_is_refused():
    class Vague(PipelineBehavior["PlaceOrder", Any]):
        async def handle(self, message, call_next):
            return await call_next()

    class App(containers.DeclarativeContainer):
        mediator = MediatorProvider(behaviors=[providers.Factory(Vague)])

    with pytest.raises(ContainerValidationError, match="does not say which messages"):
        App().mediator()
