import asyncio
import copy
import gc
import weakref
from unittest.mock import MagicMock

import pytest
from dependency_injector import containers, providers

from mediator.dependency_injector import MediatorProvider, Scoped, lifespan
from mediator.errors import ContainerError, ScopeError
from mediator.transactions import TransactionMode

from .shop import UnitOfWork


class Pair:
    def __init__(self, first, second):
        self.first = first
        self.second = second


class Closing:
    def __init__(self, log, name, *_):
        self.log = log
        self.name = name

    async def aclose(self):
        self.log().append(self.name)


class Shared(containers.DeclarativeContainer):
    unit_of_work = Scoped(UnitOfWork)
    pair = providers.Factory(Pair, unit_of_work, unit_of_work)
    mediator = MediatorProvider()


async def test_an_instance_is_shared_within_a_scope_and_closed_at_its_end():
    async with lifespan(Shared()) as container:
        async with container.mediator().scope():
            first, again = container.pair(), container.pair()
            assert first.first is first.second is again.first
            assert not first.first.closed
        assert first.first.closed
        async with container.mediator().scope():
            assert container.unit_of_work() is not first.first


async def test_the_error_outside_a_dispatch_names_the_provider():
    with pytest.raises(ScopeError, match=r"Scoped\(UnitOfWork\) was requested, but no dispatch is running"):
        Shared().unit_of_work()


async def test_the_error_in_a_task_that_outlived_its_dispatch_names_the_dispatch():
    over = asyncio.Event()

    async def later():
        await over.wait()
        container.unit_of_work()

    async with lifespan(Shared()) as container:
        async with container.mediator().scope(message="Nightly"):
            task = asyncio.create_task(later())
        over.set()
        with pytest.raises(ScopeError, match="Nightly is over"):
            await task


async def test_a_nested_scope_has_its_own_instances_and_restores_the_outer_ones():
    async with lifespan(Shared()) as container, container.mediator().scope():
        outer = container.unit_of_work()
        with pytest.raises(ValueError, match="inner"):
            async with container.mediator().scope(TransactionMode.NEW):
                assert container.unit_of_work() is not outer
                raise ValueError("inner")
        async with container.mediator().scope():
            assert container.unit_of_work() is outer
        assert container.unit_of_work() is outer
        assert not outer.closed


async def test_concurrent_scopes_share_no_instances():
    async def one():
        async with container.mediator().scope():
            mine = container.unit_of_work()
            await asyncio.sleep(0)
            assert container.unit_of_work() is mine
            return mine

    async with lifespan(Shared()) as container:
        assert len({id(each) for each in await asyncio.gather(*[one() for _ in range(50)])}) == 50


async def test_two_containers_share_no_instance_in_the_same_scope():
    async with lifespan(Shared()) as one, lifespan(Shared()) as other, one.mediator().scope(), other.mediator().scope():
        assert one.unit_of_work() is not other.unit_of_work()


async def test_no_instance_is_kept_alive_after_its_dispatch():
    async with lifespan(Shared()) as container:
        async with container.mediator().scope():
            reference = weakref.ref(container.unit_of_work())
        gc.collect()
        assert reference() is None


def closing_container(log):
    class App(containers.DeclarativeContainer):
        first = Scoped(Closing, log.provider, "first")
        second = Scoped(Closing, log.provider, "second", first)
        mediator = MediatorProvider()

    return App()


async def test_instances_are_closed_in_reverse_even_if_closing_fails_or_is_cancelled():
    log = providers.Object(closed := [])
    container = closing_container(log)
    reached = asyncio.Event()

    class Slow(Closing):
        async def aclose(self):
            reached.set()
            await asyncio.Event().wait()

    async def run():
        async with container.mediator().scope():
            container.third()

    container.third = Scoped(Slow, log.provider, "third", container.second)
    async with lifespan(container):
        task = asyncio.create_task(run())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert closed == ["second", "first"]


async def test_dispose_replaces_aclose_and_may_be_a_plain_function():
    disposed = []

    class App(containers.DeclarativeContainer):
        plain = Scoped(UnitOfWork, dispose=disposed.append)
        asynchronous = Scoped(UnitOfWork, dispose=UnitOfWork.aclose)
        mediator = MediatorProvider()

    async with lifespan(App()) as container:
        async with container.mediator().scope():
            plain, asynchronous = container.plain(), container.asynchronous()
        assert disposed == [plain]
        assert not plain.closed
        assert asynchronous.closed


async def test_a_factory_that_overrides_a_scoped_provider_is_shared_and_closed():
    class Fake(UnitOfWork):
        pass

    async with lifespan(Shared()) as container:
        with container.unit_of_work.override(providers.Factory(Fake)):
            async with container.mediator().scope():
                pair = container.pair()
                assert type(pair.first) is Fake
                assert pair.first is pair.second
            assert pair.first.closed
            async with container.mediator().scope():
                assert container.unit_of_work() is not pair.first


@pytest.mark.parametrize("wrap", [providers.Object, lambda fake: providers.Singleton(lambda: fake)])
async def test_an_override_that_lives_longer_than_the_scope_is_not_closed(wrap):
    fake = UnitOfWork()
    async with lifespan(Shared()) as container:
        with container.unit_of_work.override(wrap(fake)):
            async with container.mediator().scope():
                assert container.unit_of_work() is fake
        assert not fake.closed


async def test_an_override_by_another_scoped_provider_is_closed_once():
    closed = providers.Object([])

    class App(containers.DeclarativeContainer):
        log = closed
        thing = Scoped(Closing, closed.provider, "real")
        fake = Scoped(Closing, closed.provider, "fake")
        mediator = MediatorProvider()

    container = App()
    container.thing.override(container.fake)
    async with lifespan(container):
        async with container.mediator().scope():
            assert container.thing() is container.fake()
            log = container.thing().log()
        assert log == ["fake"]


async def test_a_mock_is_not_closed():
    mock = MagicMock()
    async with lifespan(Shared()) as container:
        with container.unit_of_work.override(providers.Factory(lambda: mock)):
            async with container.mediator().scope():
                container.unit_of_work()
    mock.aclose.assert_not_called()


async def test_an_async_provider_is_called_once_per_scope_and_closed():
    made = []

    async def make():
        await asyncio.sleep(0)
        made.append(UnitOfWork())
        return made[-1]

    class App(containers.DeclarativeContainer):
        unit_of_work = Scoped(make)
        inner = providers.Factory(Pair, unit_of_work, 1)
        outer = providers.Factory(Pair, inner, unit_of_work)
        mediator = MediatorProvider()

    async with lifespan(App()) as container:
        async with container.mediator().scope():
            outer = await container.outer()
            assert outer.first.first is outer.second is (await container.unit_of_work())
        assert made == [outer.second]
        assert outer.second.closed


async def test_an_unawaited_async_provider_is_stopped_with_its_scope():
    stopped = []

    async def make():
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("stopped")

    async def fail():
        raise ValueError("never asked for")

    class App(containers.DeclarativeContainer):
        slow = Scoped(make)
        failing = Scoped(fail)
        mediator = MediatorProvider()

    async with lifespan(App()) as container:
        async with container.mediator().scope():
            container.slow()
            container.failing()
            await asyncio.sleep(0)
        assert stopped == ["stopped"]


async def test_a_scoped_provider_works_in_a_copied_container():
    disposed = []

    class Base(containers.DeclarativeContainer):
        argument = providers.Factory(list)
        thing = Scoped(Pair, argument, second=2, dispose=disposed.append)
        mediator = MediatorProvider()

    @containers.copy(Base)
    class Copied(Base):
        argument = providers.Factory(dict)

    for container, kind in ((Base(), list), (Copied(), dict), (copy.deepcopy(Base()), list)):
        async with lifespan(container):
            async with container.mediator().scope():
                thing = container.thing()
                assert thing is container.thing()
                assert (type(thing.first), thing.second) == (kind, 2)
            assert disposed.pop() is thing


async def test_a_scoped_provider_refuses_arguments():
    async with lifespan(Shared()) as container, container.mediator().scope():
        with pytest.raises(ContainerError, match=r"share the object of Scoped\(UnitOfWork\), so a call cannot"):
            container.unit_of_work(closed=True)
