"""A consumer in a process whose files cannot grow for a while. It prints the outcome of its events."""

import asyncio
import json
import resource
import sys
from pathlib import Path

from structlog.testing import capture_logs

from mediator.sqlalchemy import open_engine
from tests.adapters.sqlalchemy.group import Group, prepare
from tests.adapters.sqlalchemy.test_full_databases import names, publish, until


async def main(file: Path) -> None:
    async with open_engine(f"sqlite:///{file}") as engine:
        await prepare(engine)
        group = Group(engine, filler=200_000, concurrency=4, retry_delays=(0.0,))
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        with capture_logs() as logs:
            async with group.running():
                publish(group, 0)
                await group.settled(1)
                resource.setrlimit(resource.RLIMIT_FSIZE, (file.with_name(f"{file.name}-wal").stat().st_size, hard))
                publish(group, 1, 2, 3, 4)
                await until(lambda: "consumer waits" in names(logs))
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                await group.settled(5)
        parked = [each.reason for each in await group.parked()]
        waited = [line["error"] for line in logs if line["event"] == "consumer waits"]
        print(json.dumps({"effects": await group.effects(), "parked": parked, "waited": waited}))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
