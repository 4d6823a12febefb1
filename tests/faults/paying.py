"""One payment in a separate process, which can kill itself at a failpoint: `python -m tests.faults.paying URL KEY`."""

import asyncio
import contextlib
import sys
from dataclasses import dataclass

import structlog
from dependency_injector import containers, providers
from sqlalchemy import text

from mediator import Command, DistributedEventBroker, DistributedUnitOfWorkBehavior, IdempotencyBehavior, RequestHandler
from mediator.dependency_injector import MediatorProvider, Scoped, lifespan
from mediator.sqlalchemy import SqlAlchemyIdempotency, SqlAlchemyOutbox, SqlAlchemyUnitOfWork, open_engine
from mediator.testing.failpoints import failpoint, kill


@dataclass(frozen=True, slots=True)
class Pay(Command[str]):
    amount: int
    idempotency_key: str


class PayHandler(RequestHandler[Pay, str]):
    def __init__(self, unit_of_work: SqlAlchemyUnitOfWork) -> None:
        self._session = unit_of_work.session

    async def handle(self, command: Pay) -> str:
        await self._session.execute(text("INSERT INTO payments VALUES (:amount)"), {"amount": command.amount})
        count = await self._session.scalar(text("SELECT count(*) FROM payments"))
        return f"payment {count}"


class Bank(containers.DeclarativeContainer):
    config = providers.Configuration(strict=True)
    engine = providers.Resource(open_engine, config.url, connect_timeout=60.0)
    unit_of_work = Scoped(SqlAlchemyUnitOfWork, engine)
    distributed_events = Scoped(DistributedEventBroker, unit_of_work)
    outbox = providers.Singleton(SqlAlchemyOutbox, engine)
    idempotency = providers.Singleton(SqlAlchemyIdempotency, engine)
    transaction = providers.Factory(DistributedUnitOfWorkBehavior, unit_of_work, distributed_events, outbox)
    once = providers.Factory(IdempotencyBehavior, idempotency)
    mediator = MediatorProvider(behaviors=providers.List(transaction, once))
    pay = providers.Factory(PayHandler, unit_of_work)


async def main(url: str, key: str, kill_at: str = "") -> None:
    with contextlib.ExitStack() as stack:
        if kill_at:
            stack.enter_context(failpoint(kill_at, kill))
        async with lifespan(Bank(config={"url": url}), workers=True, relay_elsewhere=True) as bank:
            print(await bank.mediator().send(Pay(5, key)), flush=True)  # noqa: T201


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # only the response may be printed
    asyncio.run(main(*sys.argv[1:]))
