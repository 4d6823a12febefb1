"""The site of a scenario: its servers, databases, processes and report, in a temporary folder, which always end with it."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.nats import NatsCluster, NatsServer
from mediator.sqlalchemy import open_engine
from tests.faults.scenarios import tables
from tests.faults.scenarios.application import Settings
from tests.faults.scenarios.processes import Process, Processes, processes_in
from tests.faults.scenarios.report import Report
from tests.faults.scenarios.writer import names_of_keys
from tests.postgres import PostgresServer

_LONGEST_WAIT = 1800.0


@dataclass(frozen=True, slots=True)
class Options:
    """The size of a scenario.

    Attributes:
        database: `sqlite` or `postgresql`.
        cluster: The number of servers of the broker: 1 or 3.
        events: The minimum number of written events.
        seed: The seed of all random choices.
        keys: The number of partition keys.
        accidents: The number of accidents of each kind.
        frozen_seconds: Seconds after which PostgreSQL takes the events from a frozen relay.
        ack_wait: Seconds for which the broker waits for an acknowledgement; `None` for the default.
        attempts: The maximum number of attempts of an event: 4 is the default without later tries.
        deployments: The number of stops of a process while it handles an event.
        writers: The number of writer processes.
        kill_pause: The maximum number of seconds between two kills of a consumer.
    """

    database: str = "sqlite"
    cluster: int = 1
    events: int = 1000
    seed: int = 0
    keys: int = 200
    accidents: int = 3
    frozen_seconds: float = 10.0
    ack_wait: float | None = None
    attempts: int = 4
    deployments: int = 8
    writers: int = 4
    kill_pause: float = 5.0


@dataclass(frozen=True, slots=True)
class Site:
    """The servers, databases and processes of a scenario.

    Attributes:
        options: The size of the scenario.
        report: The report of the scenario.
        folder: The folder of all files.
        brokers: The servers of the broker.
        processes: The running applications.
        publisher: The URL and the engine of the database where events are written.
        keeper: The URL and the engine of the subscriber's database.
    """

    options: Options
    report: Report
    folder: Path
    brokers: tuple[NatsServer, ...]
    processes: Processes
    publisher: tuple[str, AsyncEngine]
    keeper: tuple[str, AsyncEngine]

    @property
    def urls(self) -> list[str]:
        """The URLs of the broker."""
        return [broker.url for broker in self.brokers]

    def environment(self, database: str, **settings: Any) -> dict[str, str]:
        """Return the environment variables of a process on one of the databases."""
        options = self.options
        pauses = [0.0, 1.0, 3.0][: options.attempts - 1]
        given = {"frozen_seconds": options.frozen_seconds, "ack_wait": options.ack_wait, "retry_delays": pauses}
        return Settings(database, self.urls, replicas=options.cluster, **{**given, **settings}).environment()

    async def start_relay(self, name: str = "relay") -> Process:
        return await self.processes.run("relay", name, self.environment(self.publisher[0], name=name))

    async def start_keeper(self, name: str = "keeper", **settings: Any) -> Process:
        return await self.processes.run("keeper", name, self.environment(self.keeper[0], name=name, **settings))

    async def start_writers(self, *arguments: object, tasks: int = 8, max_pending: int | None = None) -> list[Process]:
        """Start the writers with these arguments; see `writer`."""
        environment = self.environment(self.publisher[0], name="writer", max_pending=max_pending)
        options = ("--tasks", tasks, "--keys", self.options.keys, "--seed", self.options.seed, *arguments)
        return [
            await self.processes.start(
                f"writer-{number}", "-m", "tests.faults.scenarios.writer", "--number", number, *options,
                environment=environment,
            )
            for number in range(self.options.writers)
        ]  # fmt: skip

    async def written(self) -> int:
        """Return the number of committed events."""
        return await tables.count(self.publisher[1], "entries")

    async def waiting(self) -> int:
        """Return the number of pending events in the publisher's outbox."""
        return await tables.count(self.publisher[1], "mediator_outbox")

    async def until(
        self, condition: Callable[[], Awaitable[bool]], what: str, seconds: float = _LONGEST_WAIT, pause: float = 0.1
    ) -> None:
        """Wait until a condition holds.

        Raises:
            AssertionError: The condition did not hold within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not await condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}\n{self.processes.errors()}")
            await asyncio.sleep(pause)

    async def until_logged(self, process: Process, words: str, times: int = 1) -> None:
        """Wait until a process has logged some words this many times."""

        async def logged() -> bool:
            return process.logged(words) >= times

        await self.until(logged, f"{words} in the log of {process.name}", 120, 0.05)

    async def until_written(self, share: float) -> None:
        """Wait until this share of the events is committed."""

        async def written() -> bool:
            return await self.written() >= share * self.options.events

        await self.until(written, f"{share:.0%} of the events")
        self.report.progress(f"{await self.written():,} events written, {await self.waiting():,} wait")

    async def stop(self, processes: Sequence[Process]) -> None:
        """Send SIGTERM, and check the exit status of each process."""
        for process in processes:
            status = await process.stop()
            self.report.promise(f"{process.name} ended with {status}", kept=status == 0)

    async def ended(self, processes: Sequence[Process]) -> None:
        """Wait until the processes have ended by themselves."""
        for process in processes:
            status = await process.ended()
            self.report.promise(f"{process.name} ended with {status}", kept=status == 0)

    async def until_relayed(self) -> None:
        """Wait until the outbox is empty, and report the progress."""
        told = time.monotonic()

        async def relayed() -> bool:
            nonlocal told
            waiting = await self.waiting()
            if waiting and time.monotonic() - told > 5:
                told = time.monotonic()
                self.report.progress(f"{waiting:,} events wait")
            return waiting == 0

        await self.until(relayed, "an empty outbox")


@asynccontextmanager
async def opened_site(options: Options, report: Report, postgres: PostgresServer | None = None) -> AsyncIterator[Site]:
    """Start the servers of a scenario, and stop them in the end.

    Args:
        options: The size of the scenario.
        report: The report of the scenario.
        postgres: A running server with the settings that `tables` needs; `None` starts one.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mediator-scenario-")))
        brokers = await _brokers(stack, options.cluster)
        databases = await _databases(stack, options, folder, postgres)
        engines = [await stack.enter_async_context(open_engine(url)) for url in databases]
        for engine in engines:
            await tables.create_tables(engine, names_of_keys(options.keys))
        processes = await stack.enter_async_context(processes_in(folder))
        publisher, keeper = zip(databases, engines, strict=True)
        report.progress(f"the servers run, in {folder}")
        yield Site(options, report, folder, brokers, processes, publisher, keeper)


async def _brokers(stack: AsyncExitStack, size: int) -> tuple[NatsServer, ...]:
    if size == 1:
        return (await stack.enter_async_context(NatsServer()),)
    return (await stack.enter_async_context(NatsCluster(size))).servers


async def _databases(
    stack: AsyncExitStack, options: Options, folder: Path, postgres: PostgresServer | None
) -> list[str]:
    if options.database == "sqlite":
        return [f"sqlite:///{folder / name}.db" for name in ("publisher", "keeper")]
    server = postgres or await stack.enter_async_context(PostgresServer(tables.SETTINGS))
    return [await stack.enter_async_context(server.database()) for _ in range(2)]
