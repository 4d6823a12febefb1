"""The site of a campaign: its servers behind proxies, its databases and its processes, which always end with it."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from mediator.nats import NatsCluster, NatsServer
from mediator.sqlalchemy import open_engine
from tests.faults.campaign.containers import Settings
from tests.faults.campaign.forked import Forked
from tests.faults.campaign.proxy import Proxy
from tests.faults.campaign.troubles import JUMPED, LOG_FAILED, NOT_CLOSED
from tests.faults.scenarios import tables
from tests.faults.scenarios.processes import Process, Processes, processes_in
from tests.faults.scenarios.writer import names_of_keys
from tests.postgres import PostgresServer

TABLES = ("entries", "receipts", "effects", "audits")
_CONTAINERS = "tests.faults.campaign.containers"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a campaign.

    Attributes:
        seconds: Seconds for which faults happen.
        seed: The seed of all random choices.
        database: `sqlite` or `postgresql`.
        cluster: The number of servers of the broker: 1 or 3.
        rate: Commands per second of each writer.
        keys: The number of partition keys.
        log_failures: The share of log lines that fail in all processes.
        close_failures: The share of scoped objects whose close fails.
        clock_jumps: Whether the clock of one process of each kind jumps.
    """

    seconds: float = 60.0
    seed: int = 0
    database: str = "sqlite"
    cluster: int = 1
    rate: float = 8.0
    keys: int = 40
    log_failures: float = 0.05
    close_failures: float = 0.05
    clock_jumps: bool = True

    @property
    def troubles(self) -> tuple[str, ...]:
        """The names of the troubles inside of the processes."""
        wanted = {LOG_FAILED: self.log_failures, NOT_CLOSED: self.close_failures, JUMPED: self.clock_jumps}
        return tuple(name for name, share in wanted.items() if share)


@dataclass(frozen=True, slots=True)
class Role:
    """A kind of process.

    Attributes:
        name: The name of the kind.
        application: The application of its processes: `ledger` or `keeper`.
        count: The number of processes.
    """

    name: str
    application: str
    count: int

    @property
    def kind(self) -> str:
        """The name of the kind in the counts of faults."""
        return {"keeper": "consumer", "auditor": "consumer", "keeper-relay": "relay"}.get(self.name, self.name)


ROLES = (
    Role("writer", "ledger", 2),
    Role("relay", "ledger", 2),
    Role("keeper", "keeper", 2),
    Role("keeper-relay", "keeper", 1),
    Role("auditor", "keeper", 2),
)


@dataclass
class Site:
    """The servers, databases and processes of a campaign.

    Attributes:
        options: The options of the campaign.
        folder: The folder of all files.
        brokers: The servers of the broker.
        broker_proxies: The proxy in front of each server.
        postgres: The database server, if there is one, and its proxy.
        urls: The URLs of the databases of both applications, without the proxy.
        engines: The engines of the campaign itself.
        processes: All started processes.
        running: The processes that should run, by kind.
    """

    options: Options
    folder: Path
    brokers: tuple[NatsServer, ...]
    broker_proxies: tuple[Proxy, ...]
    postgres: PostgresServer | None
    postgres_proxy: Proxy | None
    urls: dict[str, str]
    engines: dict[str, AsyncEngine]
    processes: Processes
    running: dict[str, list[Process]] = field(default_factory=dict[str, list[Process]])

    @property
    def broker_urls(self) -> list[str]:
        """The URLs of the broker without the proxies."""
        return [broker.url for broker in self.brokers]

    def environment(self, application: str, *, repaired: bool = False, first: bool = False) -> dict[str, str]:
        """Return the environment variables of a process; the clock of the first process of each kind jumps."""
        url = make_url(self.urls[application])
        if self.postgres_proxy is not None:
            url = url.set(port=self.postgres_proxy.port)
        nats = [f"nats://127.0.0.1:{proxy.port}" for proxy in self.broker_proxies]
        database = url.render_as_string(hide_password=False)
        options = self.options
        return Settings(
            database, nats, application, options.cluster, repaired,
            log_failures=options.log_failures, close_failures=options.close_failures,
            clock_jumps=options.clock_jumps and first, journals=str(self.folder),
        ).environment()  # fmt: skip

    async def start(self) -> None:
        """Start every process."""
        for role in ROLES:
            self.running[role.name] = [await self._start(role, number) for number in range(role.count)]

    async def _start(self, role: Role, number: int) -> Process:
        name, environment = f"{role.name}-{number}", self.environment(role.application, first=number == 0)
        if role.name == "writer":
            arguments: Sequence[object] = (
                "-m", "tests.faults.campaign.writer", "--seed", f"{self.options.seed}-{number}",
                "--rate", self.options.rate, "--keys", self.options.keys,
            )  # fmt: skip
        else:
            target = "relay" if role.kind == "relay" else role.name
            arguments = ("-m", "mediator.cli", "run", f"{_CONTAINERS}:{target}", "--relay-elsewhere")
        return await self.processes.start(name, *arguments, environment=environment)

    async def heal(self) -> None:
        """Heal connections, resume frozen processes, and restart killed ones."""
        for proxy in (*self.broker_proxies, *((self.postgres_proxy,) if self.postgres_proxy else ())):
            proxy.heal()
        for process in [each for group in self.running.values() for each in group]:
            process.resume()
        await asyncio.gather(*(broker.start() for broker in self.brokers))
        if self.postgres is not None:
            self.postgres.resume()
            await self.postgres.start()


@asynccontextmanager
async def opened_site(options: Options, folder: Path) -> AsyncIterator[Site]:
    """Start the servers of a campaign, and create its tables."""
    async with AsyncExitStack() as stack:
        brokers = await _brokers(stack, options.cluster)
        broker_proxies = [await stack.enter_async_context(Proxy(_port(broker.url))) for broker in brokers]
        postgres, postgres_proxy = None, None
        if options.database == "postgresql":
            postgres = await stack.enter_async_context(PostgresServer(tables.SETTINGS))
            postgres_proxy = await stack.enter_async_context(Proxy(_port(postgres.url())))
        urls = await _databases(stack, folder, postgres)
        engines = {name: await stack.enter_async_context(open_engine(url)) for name, url in urls.items()}
        for engine in engines.values():
            await tables.create_tables(engine, names_of_keys(options.keys), TABLES)
        processes = await stack.enter_async_context(processes_in(folder, Forked))
        yield Site(options, folder, brokers, tuple(broker_proxies), postgres, postgres_proxy, urls, engines, processes)


async def _brokers(stack: AsyncExitStack, size: int) -> tuple[NatsServer, ...]:
    if size == 1:
        return (await stack.enter_async_context(NatsServer()),)
    return (await stack.enter_async_context(NatsCluster(size, cluster="no_advertise: true"))).servers


async def _databases(stack: AsyncExitStack, folder: Path, postgres: PostgresServer | None) -> dict[str, str]:
    names = ("ledger", "keeper")
    if postgres is None:
        return {name: f"sqlite:///{folder / name}.db" for name in names}
    return {name: await stack.enter_async_context(postgres.database()) for name in names}


def _port(url: str) -> int:
    return int(url.partition("//")[2].rpartition(":")[2].partition("/")[0])


@asynccontextmanager
async def folder_of(seed: int) -> AsyncIterator[tuple[Path, "Keeping"]]:
    """Yield a folder that is removed in the end unless it should be kept."""
    folder = Path(tempfile.mkdtemp(prefix=f"mediator-campaign-{seed}-"))
    keeping = Keeping()
    try:
        yield folder, keeping
    finally:
        if not keeping.wanted:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Keeping:
    """Decides whether the folder of a campaign is kept: on request, or because of findings."""

    wanted: bool = False
