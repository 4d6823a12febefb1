import asyncio
import contextvars
import traceback
from contextlib import asynccontextmanager, contextmanager

import pytest
from dependency_injector import containers, providers, resources

from mediator.dependency_injector import MediatorProvider, Scoped, lifespan
from mediator.dependency_injector.lifespan import opened
from mediator.errors import ContainerError, ContainerValidationError, MisuseError

from .shop import CountOrders, CountOrdersHandler, UnitOfWork


class Box:
    def __init__(self, content) -> None:
        self.content = content


class Log(list):
    """Creates resources that record their start and stop."""

    def resource(self, name, *needs, start=None, stop=None):
        @asynccontextmanager
        async def open_resource(*_):
            await asyncio.sleep(0)
            if start is not None:
                raise start
            self.append(f"+{name}")
            try:
                yield name
            finally:
                self.append(f"-{name}")
                if stop is not None:
                    raise stop

        return providers.Resource(open_resource, *needs)


def container_of(**named):
    made = containers.DynamicContainer()
    for name, provider in named.items():
        setattr(made, name, provider)
    return made


async def test_resources_start_in_the_order_of_their_dependencies_and_stop_in_reverse():
    for _ in range(30):
        log = Log()
        connection = log.resource("connection")
        holder = providers.Singleton(Box, providers.Factory(Box, connection))
        lazily = log.resource("lazily", holder.provider)
        container = container_of(
            server=log.resource("server", providers.List(lazily)),
            holder=holder,
            lazily=lazily,
            last=log.resource("last"),
        )
        container.connection = connection
        async with lifespan(container):
            assert log == ["+connection", "+lazily", "+server", "+last"]
        assert log[4:] == ["-last", "-server", "-lazily", "-connection"]


async def test_resources_of_every_form_start_and_stop():
    log = []

    def plain():
        log.append("+plain")
        return "plain"

    async def coroutine():
        log.append("+coroutine")
        return "coroutine"

    def generator():
        log.append("+generator")
        yield "generator"
        log.append("-generator")

    async def async_generator(_):
        log.append("+async_generator")
        yield "async_generator"
        log.append("-async_generator")

    @contextmanager
    def manager():
        log.append("+manager")
        yield "manager"
        log.append("-manager")

    class Class(resources.AsyncResource):
        async def init(self, given):
            log.append("+class")
            return given

        async def shutdown(self, _):
            log.append("-class")

    container = container_of(
        one=providers.Resource(plain),
        two=providers.Resource(coroutine),
        three=providers.Resource(generator),
        four=providers.Resource(async_generator, providers.Singleton(Box, 1)),
        five=providers.Resource(manager),
        six=providers.Resource(Class, "class"),
    )
    async with lifespan(container):
        assert [provider() for provider in container.providers.values()] == [name[1:] for name in log]
        assert len(log) == 6
    assert log[6:] == ["-class", "-manager", "-async_generator", "-generator"]


async def test_providers_return_plain_objects_inside_the_lifespan():
    log = Log()
    connection = log.resource("connection")
    service = providers.Singleton(Box, connection)
    container = container_of(connection=connection, service=service, user=providers.Factory(Box, service))
    async with lifespan(container):
        assert container.user().content.content == "connection"


async def test_a_failure_while_starting_stops_the_started_resources():
    log = Log()
    first = log.resource("first")
    second = log.resource("second", first, start=OSError("no route"))
    container = container_of(first=first, second=second, third=log.resource("third", second))
    with pytest.raises(OSError, match="no route") as caught:
        async with lifespan(container):
            raise AssertionError("entered")
    assert log == ["+first", "-first"]
    assert caught.value.__notes__ == ["This was raised when container.second was started."]


async def test_a_cancellation_while_starting_stops_the_started_resources():
    log = Log()
    reached, cleaned = asyncio.Event(), []

    async def hang():
        try:
            reached.set()
            await asyncio.Event().wait()
        finally:
            cleaned.append("hang")

    async def main():
        async with lifespan(container_of(first=log.resource("first"), hang=providers.Resource(hang))):
            raise AssertionError("entered")

    task = asyncio.create_task(main())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["+first", "-first"]
    assert cleaned == ["hang"]


async def test_a_resource_that_fails_to_stop_does_not_prevent_the_others_from_stopping():
    log = Log()
    first = log.resource("first")
    container = container_of(
        first=first,
        second=log.resource("second", first, stop=RuntimeError("two")),
        third=log.resource("third", first, stop=RuntimeError("three")),
    )
    with pytest.raises(ExceptionGroup) as caught:
        async with lifespan(container):
            pass
    assert [str(error) for error in caught.value.exceptions] == ["three", "two"]
    assert log[3:] == ["-third", "-second", "-first"]


async def test_a_single_failure_while_stopping_is_raised_unchanged():
    log = Log()
    failure = RuntimeError("stuck")
    with pytest.raises(RuntimeError) as caught:
        async with lifespan(container_of(first=log.resource("first", stop=failure))):
            pass
    assert caught.value is failure
    assert caught.value.__notes__ == ["This was raised when container.first was stopped."]


async def test_an_error_of_the_body_is_raised_with_notes_on_failures_while_stopping():
    log = Log()
    error = ValueError("body")
    with pytest.raises(ValueError, match="body") as caught:
        async with lifespan(container_of(a=log.resource("a", stop=RuntimeError("stuck")), b=log.resource("b"))):
            raise error
    assert caught.value is error
    assert error.__notes__ == ["While stopping resources: RuntimeError('stuck')"]
    assert log[2:] == ["-b", "-a"]


async def test_a_cancelled_body_stops_all_resources_even_if_it_is_cancelled_again():
    log = Log()
    running, stopping = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def slow(_):
        yield
        stopping.set()
        await asyncio.Event().wait()

    async def main():
        first = log.resource("first")
        async with lifespan(container_of(first=first, slow=providers.Resource(slow, first))):
            running.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(main())
    await running.wait()
    task.cancel()
    await stopping.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["+first", "-first"]


async def test_a_restarted_container_rebuilds_the_singletons_that_use_resources():
    class App(containers.DeclarativeContainer):
        connection = providers.Resource(Box, 1)
        service = providers.Singleton(Box, connection)
        store = providers.Singleton(list)
        mediator = MediatorProvider()
        count_orders = providers.Factory(CountOrdersHandler)

    container = App()
    seen = []
    for _ in range(2):
        async with lifespan(container):
            assert container.service().content is container.connection()
            assert await container.mediator().send(CountOrders()) == 7
            seen.append((container.service(), container.store()))
    assert seen[0][0] is not seen[1][0]
    assert seen[0][1] is seen[1][1]


async def test_overriding_resources_are_started_instead_of_overridden_ones():
    log = Log()
    container = container_of(real=log.resource("real"))
    container.user = providers.Factory(Box, container.real)
    with container.real.override("fake"):
        async with lifespan(container):
            assert container.user().content == "fake"
    assert log == []
    with container.real.override(log.resource("other")):
        async with lifespan(container):
            assert container.user().content == "other"
    assert log == ["+other", "-other"]
    async with lifespan(container):
        assert container.user().content == "real"


async def test_nested_and_unnamed_resources_are_started_once():
    log = Log()

    class Inner(containers.DeclarativeContainer):
        given = providers.Dependency()
        inner = log.resource("inner", given)

    class App(containers.DeclarativeContainer):
        outer = log.resource("outer")
        nested = providers.Container(Inner, given=outer)
        user = providers.Factory(Box, log.resource("nameless", nested.inner))

    async with lifespan(App()):
        assert log == ["+outer", "+inner", "+nameless"]


async def test_an_empty_container_starts_and_stops():
    async with lifespan(containers.DynamicContainer()) as container:
        assert container.providers == {}


class Shop(containers.DeclarativeContainer):
    unit_of_work = Scoped(UnitOfWork)
    mediator = MediatorProvider()
    count_orders = providers.Factory(CountOrdersHandler)


async def test_mediators_accept_messages_only_inside_the_lifespan():
    class Whole(containers.DeclarativeContainer):
        shop = providers.Container(Shop)
        mediator = MediatorProvider()

    container = Whole()
    held = [container.mediator(), container.shop.mediator()]
    async with lifespan(container):
        assert [await mediator.send(CountOrders()) for mediator in held] == [7, 7]
    for mediator in held:
        with pytest.raises(MisuseError, match="outside the lifespan"):
            await mediator.send(CountOrders())


async def test_a_resource_that_is_being_stopped_finds_the_mediator_stopped():
    found = []

    class App(Shop):
        mediator = MediatorProvider()

    container = App()

    @asynccontextmanager
    async def observe():
        found.append(container.mediator().started)
        yield
        found.append(container.mediator().started)

    container.observe = providers.Resource(observe)
    async with lifespan(container):
        found.append(container.mediator().started)
    assert found == [False, True, False]


async def test_a_running_container_is_not_started_twice():
    container = Shop()
    async with lifespan(container):
        with pytest.raises(ContainerError, match="running already"):
            async with lifespan(container):
                raise AssertionError("entered")
        assert await container.mediator().send(CountOrders()) == 7


async def test_a_faulty_container_is_not_started():
    log = Log()
    container = container_of(first=log.resource("first"), wanting=providers.Resource(Box))
    with pytest.raises(ContainerValidationError, match="missing a required argument"):
        async with lifespan(container):
            raise AssertionError("entered")
    assert log == []


async def test_validation_can_be_switched_off():
    async with lifespan(container_of(wanting=providers.Singleton(Box, 1, 2)), check=False):
        pass


async def test_requests_and_packages_are_checked():
    with pytest.raises(ContainerValidationError, match=r"container\.mediator .*PlaceOrder has no handler"):
        async with lifespan(Shop(), packages=[f"{__package__}.shop"]):
            raise AssertionError("entered")


async def test_a_container_class_is_refused():
    with pytest.raises(ContainerError, match="container class Shop"):
        async with lifespan(Shop):
            raise AssertionError("entered")


async def test_a_lifespan_may_be_entered_and_left_in_different_tasks_and_contexts():
    container = Shop()
    entering = lifespan(container)
    await asyncio.create_task(entering.__aenter__(), context=contextvars.Context())
    assert await container.mediator().send(CountOrders()) == 7
    await asyncio.create_task(entering.__aexit__(None, None, None), context=contextvars.Context())
    assert not container.mediator().started


async def test_the_traceback_of_a_body_error_is_short():
    with pytest.raises(ValueError, match="body") as caught:
        async with lifespan(Shop()):
            raise ValueError("body")
    assert len(traceback.format_exception(caught.value)) < 30
    assert caught.value.__context__ is None


async def test_a_lifespan_of_parts_also_stops_resources_that_the_container_started_itself():
    log = Log()
    connection = log.resource("connection")
    container = container_of(connection=connection, settings=log.resource("settings"), last=log.resource("last"))
    container.user = log.resource("user", connection)
    await container.settings.init()
    async with opened(container) as ask:
        assert await ask(container.user) == "user"
    assert log[:3] == ["+settings", "+connection", "+user"]
    assert sorted(log[3:]) == ["-connection", "-settings", "-user"]
    assert log.index("-user") < log.index("-connection")
