from dependency_injector import containers, providers

from mediator import Concurrent, Notification, NotificationHandler, NotificationPipelineBehavior, current_scope
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan, validate


class Happened(Notification):
    pass


class Session:
    pass


class Listen(NotificationHandler[Happened]):
    def __init__(self, session, seen):
        self.session, self.seen = session, seen

    async def handle(self, notification):
        self.seen.append((current_scope(), self.session))


class Trace(NotificationPipelineBehavior[Notification]):
    def __init__(self, seen):
        self.seen = seen

    async def handle(self, notification, handler, call_next):
        self.seen.append(handler)
        await call_next()


class App(containers.DeclarativeContainer):
    seen = providers.Singleton(list)
    session = Scoped(Session)
    trace = providers.Factory(Trace, seen)
    mediator = MediatorProvider(behaviors=providers.List(trace), strategy=Concurrent(limit=1), max_depth=7)
    first = providers.Factory(Listen, session, seen)
    second = providers.Factory(Listen, session, seen)


async def test_the_mediator_uses_its_strategy_and_its_behaviors_around_each_handler():
    async with lifespan(App()) as container:
        await container.mediator().publish(Happened())
        first, one, second, two = container.seen()
    assert (first, second) == (Listen, Listen)
    assert one[0] is not two[0]
    assert one[1] is not two[1]


def test_a_container_with_notification_behaviors_is_valid_and_described():
    validate(App())
    lines = App().mediator().describe(Happened).splitlines()
    assert lines[1].split() == ["around", "each:", "Trace", "container.trace"]
