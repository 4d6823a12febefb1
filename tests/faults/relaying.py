"""The relay of one database in a separate process, until it is terminated.

`python -m tests.faults.relaying DATABASE_URL NATS_URL FROZEN_SECONDS`
"""

import asyncio
import signal
import sys

from mediator import OutboxRelay
from mediator.nats import NatsEventPublisher, open_connection
from mediator.sqlalchemy import SqlAlchemyOutbox, open_engine


async def main(database: str, nats: str, frozen_seconds: float) -> None:
    async with open_engine(database) as engine, open_connection(nats) as connection:
        outbox = SqlAlchemyOutbox(engine, frozen_seconds=frozen_seconds)
        relay = OutboxRelay(outbox, NatsEventPublisher(connection, "stock"), batch_size=20, poll_interval=0.05)
        task = asyncio.create_task(relay.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await asyncio.wait((task,))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
