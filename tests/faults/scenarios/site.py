"""The site of a scenario: its servers, databases, processes and report, in a temporary folder, ended whatever happens."""

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
    """How large a scenario is.

    Attributes:
        database: `sqlite` or `postgresql`.
        cluster: How many servers the broker has: 1 or 3.
        events: How many events are written, at least.
        seed: Of what is chosen at random.
        keys: How many partition keys there are.
        accidents: How many of each kind happen.
        frozen_seconds: After how long PostgreSQL takes the events from a frozen relay.
        ack_wait: How long the broker waits for an acknowledgement; `None` for as long as by default.
        attempts: How often the handlers of an event are started: 4 is the default of an ordered group.
        deployments: How often a process is told to stop while it handles an event.
        writers: How many processes write.
        kill_pause: How long a consumer runs at most until it is killed again, in seconds.
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
    """What a scenario works with.

    Attributes:
        options: How large it is.
        report: What was found.
        folder: For files.
        brokers: The servers of the broker.
        processes: The running applications.
        publisher: The URL of the database where events are written, and its engine.
        keeper: Those of the subscriber's.
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
        """Of the broker."""
        return [broker.url for broker in self.brokers]

    def environment(self, database: str, **settings: Any) -> dict[str, str]:
        """For a process on one of the databases."""
        options = self.options
        given = {"frozen_seconds": options.frozen_seconds, "ack_wait": options.ack_wait, "attempts": options.attempts}
        return Settings(database, self.urls, replicas=options.cluster, **{**given, **settings}).environment()

    async def start_relay(self, name: str = "relay") -> Process:
        return await self.processes.run("relay", name, self.environment(self.publisher[0], name=name))

    async def start_keeper(self, name: str = "keeper", **settings: Any) -> Process:
        return await self.processes.run("keeper", name, self.environment(self.keeper[0], name=name, **settings))

    async def start_writers(self, *arguments: object, tasks: int = 8, max_pending: int | None = None) -> list[Process]:
        """Writers that write what the arguments say; see `writer`."""
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
        """How many events were committed so far."""
        return await tables.count(self.publisher[1], "entries")

    async def waiting(self) -> int:
        """How many events wait in the publisher's outbox."""
        return await tables.count(self.publisher[1], "mediator_outbox")

    async def until(
        self, condition: Callable[[], Awaitable[bool]], what: str, seconds: float = _LONGEST_WAIT, pause: float = 0.1
    ) -> None:
        """Wait until something is so.

        Raises:
            AssertionError: It is not within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not await condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}\n{self.processes.errors()}")
            await asyncio.sleep(pause)

    async def until_logged(self, process: Process, words: str, times: int = 1) -> None:
        """Wait until a process has logged some words so often."""

        async def logged() -> bool:
            return process.logged(words) >= times

        await self.until(logged, f"{words} in the log of {process.name}", 120, 0.05)

    async def until_written(self, share: float) -> None:
        """Wait until that share of the events is committed."""

        async def written() -> bool:
            return await self.written() >= share * self.options.events

        await self.until(written, f"{share:.0%} of the events")
        self.report.progress(f"{await self.written():,} events written, {await self.waiting():,} wait")

    async def stop(self, processes: Sequence[Process]) -> None:
        """SIGTERM, upon which they are to end well."""
        for process in processes:
            status = await process.stop()
            self.report.promise(f"{process.name} ended with {status}", kept=status == 0)

    async def ended(self, processes: Sequence[Process]) -> None:
        """Wait until they have done what they had to do."""
        for process in processes:
            status = await process.ended()
            self.report.promise(f"{process.name} ended with {status}", kept=status == 0)

    async def until_relayed(self) -> None:
        """Wait until the outbox is empty, and tell of it now and then."""
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
    """Start what a scenario needs, and end it.

    Args:
        options: How large the scenario is.
        report: Where it reports.
        postgres: A server that runs, with the settings that `tables` needs; `None` starts one.
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
