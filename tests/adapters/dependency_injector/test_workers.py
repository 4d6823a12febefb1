import asyncio

import pytest
import structlog
from dependency_injector import containers, providers

from mediator.dependency_injector import MediatorProvider, lifespan, workers_of
from mediator.distributed.inbox import EventConsumer
from mediator.distributed.outbox import OutboxRelay
from mediator.errors import ContainerError, WorkerNotStoppedError

from .shop import CountOrders, CountOrdersHandler


class Relay(OutboxRelay):
    """Records its steps, and fails on request."""

    def __init__(self, log, *_) -> None:
        self.log = log
        self.running = asyncio.Event()
        self.fail = asyncio.Event()

    async def run(self):
        self.log.append("running")
        self.running.set()
        try:
            await self.fail.wait()
        except asyncio.CancelledError:
            await self.drain()
            self.log.append("drained")
            raise
        raise OSError("relay")

    async def drain(self):
        await asyncio.sleep(0)


class Consumer(EventConsumer):
    def __init__(self, log, mediator) -> None:
        self.log = log
        self.mediator = mediator

    async def run(self):
        try:
            await asyncio.Event().wait()
        finally:
            self.log.append(await self.mediator.send(CountOrders()))


class Connection:
    def __init__(self, log) -> None:
        self.log = log

    async def __aenter__(self):
        self.log.append("open")
        return self

    async def __aexit__(self, *_):
        self.log.append("closed")


class App(containers.DeclarativeContainer):
    log = providers.Singleton(list)
    connection = providers.Resource(Connection, log)
    mediator = MediatorProvider()
    relay = providers.Singleton(Relay, log, connection)
    count_orders = providers.Factory(CountOrdersHandler)


async def test_workers_run_concurrently_with_the_body_and_drain_before_resources_close():
    async with lifespan(App(), workers=True) as container:
        log = container.log()
        await container.relay().running.wait()
    assert log == ["open", "running", "drained", "closed"]


async def test_a_consumer_can_use_the_mediator_until_it_has_drained():
    container = App()
    container.consumer = providers.Singleton(Consumer, container.log, container.mediator)
    async with lifespan(container, workers=True):
        await container.relay().running.wait()
    assert set(container.log()[2:4]) == {"drained", 7}


async def test_workers_do_not_run_unless_asked_for():
    async with lifespan(App()) as container:
        await asyncio.sleep(0)
        assert container.log() == ["open"]


async def test_workers_are_found_by_type_even_in_nested_containers():
    class Whole(containers.DeclarativeContainer):
        app = providers.Container(App)
        consumer = providers.Singleton(Consumer, app.log, app.mediator)

    container = Whole()
    with pytest.raises(ContainerError, match=r"container\.app\.relay needs resources that are not started"):
        workers_of(container)
    async with lifespan(container):
        assert workers_of(container) == [
            ("container.app.relay", container.app.relay()),
            ("container.consumer", container.consumer()),
        ]


async def test_a_worker_chosen_by_a_selector_runs_once():
    container = App()
    other = providers.Singleton(Relay, container.log)
    container.relay = providers.Selector(providers.Object("one"), one=container.relay, two=other)
    async with lifespan(container):
        assert [label for label, _ in workers_of(container)] == ["container.relay"]


async def test_a_failing_worker_cancels_the_body_and_its_error_is_raised_unchanged():
    container = App()
    container.consumer = providers.Singleton(Consumer, container.log, container.mediator)
    cancelled = []
    with pytest.raises(OSError, match="relay") as caught:
        async with lifespan(container, workers=True):
            log = container.log()
            await container.relay().running.wait()
            container.relay().fail.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append("body")
                raise
    assert caught.value.__notes__ == ["This was raised by the worker container.relay."]
    assert cancelled == ["body"]
    assert log == ["open", "running", 7, "closed"]
    assert asyncio.current_task().cancelling() == 0


async def test_errors_of_a_worker_and_of_the_body_are_raised_together():
    with pytest.raises(ExceptionGroup) as caught:
        async with lifespan(App(), workers=True) as container:
            await container.relay().running.wait()
            container.relay().fail.set()
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("body")
    assert {str(error) for error in caught.value.exceptions} == {"relay", "body"}


async def test_an_error_or_group_of_the_body_is_raised_unchanged():
    for error in (ValueError("body"), ExceptionGroup("several", [ValueError("body")])):
        with pytest.raises(type(error)) as caught:
            async with lifespan(App(), workers=True) as container:
                await container.relay().running.wait()
                raise error
        assert caught.value is error
        assert error.__context__ is None


async def test_a_cancelled_body_drains_the_workers():
    running = asyncio.Event()
    container = App()
    log = []

    async def main():
        async with lifespan(container, workers=True):
            log.append(container.log())
            await container.relay().running.wait()
            running.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(main())
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == [["open", "running", "drained", "closed"]]


async def test_a_cancellation_during_draining_ends_the_draining():
    draining = asyncio.Event()
    log = []

    class Slow(Relay):
        async def drain(self):
            draining.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.log.append("cut short")

    async def main():
        container = App()
        container.relay.override(providers.Singleton(Slow, container.log))
        async with lifespan(container, workers=True):
            log.append(container.log())
            await container.relay().running.wait()

    task = asyncio.create_task(main())
    await draining.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == [["open", "running", "cut short", "closed"]]


async def test_a_lifespan_with_workers_may_be_entered_and_left_in_different_tasks():
    container = App()
    entering = lifespan(container, workers=True)
    await asyncio.create_task(entering.__aenter__())
    log = container.log()
    await container.relay().running.wait()
    await asyncio.create_task(entering.__aexit__(None, None, None))
    assert log == ["open", "running", "drained", "closed"]


async def test_an_error_in_draining_is_raised():
    class Failing(Relay):
        async def drain(self):
            raise OSError("drain")

    container = App()
    container.relay.override(providers.Singleton(Failing, container.log))
    with pytest.raises(OSError, match="drain"):
        async with lifespan(container, workers=True):
            await container.relay().running.wait()
    assert container.log()[-1] == "closed"


async def test_a_worker_that_drains_for_too_long_is_cancelled():
    class Slow(Relay):
        async def drain(self):
            await asyncio.Event().wait()

    container = App()
    container.relay.override(providers.Singleton(Slow, container.log))
    async with lifespan(container, workers=True, drain_timeout=0.01):
        await container.relay().running.wait()
    assert container.log() == ["open", "running", "closed"]


async def test_a_worker_that_ignores_cancellation_is_left_behind_with_an_error(monkeypatch):
    monkeypatch.setattr("mediator.dependency_injector.workers._GIVE_UP_TIMEOUT", 0.01)
    free, tasks = asyncio.Event(), []

    class Stubborn(Relay):
        async def run(self):
            tasks.append(asyncio.current_task())
            self.running.set()
            while not free.is_set():
                try:
                    await free.wait()
                except asyncio.CancelledError:
                    self.log.append("ignored")

    container = App()
    container.relay.override(providers.Singleton(Stubborn, container.log))
    with pytest.raises(WorkerNotStoppedError, match=r"container\.relay was cancelled and did not stop within 0\.01 s"):
        async with lifespan(container, workers=True, drain_timeout=0.01):
            await container.relay().running.wait()
    assert container.log() == ["open", "ignored", "ignored", "closed"]
    free.set()
    await tasks[0]


async def test_a_worker_that_ends_by_itself_is_logged_and_the_body_continues():
    class Ending(Relay):
        async def run(self):
            self.running.set()

    container = App()
    container.relay.override(providers.Singleton(Ending, container.log))
    with structlog.testing.capture_logs() as logs:
        async with lifespan(container, workers=True):
            await container.relay().running.wait()
            while not logs:
                await asyncio.sleep(0)
    assert logs == [{"event": "worker ended", "worker": "container.relay", "log_level": "warning"}]


async def test_workers_run_again_when_the_container_is_started_again():
    container = App()
    relays = []
    for _ in range(2):
        async with lifespan(container, workers=True):
            relays.append(container.relay())
            await relays[-1].running.wait()
    assert relays[0] is not relays[1]
    assert container.log().count("drained") == 2


async def test_a_body_that_ends_at_once_leaves_no_task_behind():
    before = asyncio.all_tasks()
    async with lifespan(App(), workers=True):
        pass
    assert asyncio.all_tasks() == before
