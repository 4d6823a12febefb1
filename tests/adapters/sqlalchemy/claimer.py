"""A process that claims the events of a database, reports it, and settles them on demand.

`python -m tests.adapters.sqlalchemy.claimer URL FROZEN_SECONDS`
"""

import asyncio
import sys

from mediator.errors import ClaimLostError
from mediator.sqlalchemy import SqlAlchemyOutbox, open_engine


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def main(url: str, frozen_seconds: float) -> str:
    async with open_engine(url) as engine:
        try:
            async with SqlAlchemyOutbox(engine, frozen_seconds=frozen_seconds).claim(100) as batch:
                say(len(batch.events))
                sys.stdin.readline()
                await batch.settle([event.id for event in batch.events])
        except ClaimLostError:
            return "lost"
        return "settled"


if __name__ == "__main__":
    say(asyncio.run(main(sys.argv[1], float(sys.argv[2]))))
