"""Faults of processes, servers and connections in a campaign."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from mediator.dependency_injector import lifespan
from mediator.nats import NatsServer
from tests.faults.campaign.application import Book, Service
from tests.faults.campaign.containers import LedgerContainer, Settings
from tests.faults.campaign.proxy import Proxy
from tests.faults.campaign.schedule import Planned
from tests.faults.campaign.site import ROLES, Site
from tests.faults.campaign.supervisor import Supervisor
from tests.faults.scenarios.processes import Process

_POISON_TRIES = 300
"""The number of tries: the database is sometimes down, and recovers slowly from a crash on a busy machine."""
_POISON_PAUSE = 0.5

Fault = Callable[[str, random.Random], Awaitable[None]]


class Faults:
    """Applies the planned faults to a site.

    Attributes:
        done: The number of faults of each kind.
    """

    def __init__(self, site: Site, supervisor: Supervisor) -> None:
        self.done: Counter[str] = Counter()
        self._site = site
        self._supervisor = supervisor
        self._broker_busy = asyncio.Lock()
        self._postgres_busy = asyncio.Lock()
        self._poisons = itertools.count()

    async def run(self, planned: Planned) -> None:
        """Apply one fault completely, and count it."""
        action, _, what = planned.kind.partition(" ")
        faults: dict[str, Fault] = {
            "SIGKILL": self._kill,
            "SIGSTOP": self._freeze,
            "restart": self._restart,
            "connections": self._cut,
            "poison": self._poison,
            "deadly": self._deadly,
            "service": self._take_service_away,
        }
        await faults[action](what, planned.rng)
        self.done[planned.kind] += 1

    # Processes.

    async def _victim(self, kind: str, rng: random.Random) -> Process:
        names = tuple(role.name for role in ROLES if role.kind == kind)
        while not (alive := self._supervisor.alive(names)):
            await asyncio.sleep(0.1)
        return rng.choice(alive)

    async def _kill(self, what: str, rng: random.Random) -> None:
        if what == "nats-server":
            await self._kill_broker(rng)
        else:
            await (await self._victim(what, rng)).kill()

    async def _freeze(self, what: str, rng: random.Random) -> None:
        if what == "nats-server":
            await self._freeze_broker(rng)
            return
        process, long = await self._victim(what, rng), rng.random() < 0.3
        process.freeze()
        try:
            await asyncio.sleep(rng.uniform(7.0, 9.0) if long else rng.uniform(0.2, 3.0))
        finally:
            process.resume()

    # Servers.

    async def _kill_broker(self, rng: random.Random) -> None:
        """Kill one server; in a cluster, sometimes all servers at once."""
        async with self._broker_busy:
            brokers = self._site.brokers
            victims: tuple[NatsServer, ...] = brokers if rng.random() < 0.2 else (rng.choice(brokers),)
            for broker in victims:
                await broker.kill()
            await asyncio.sleep(rng.uniform(0.1, 2.0))
            await asyncio.gather(*(broker.start() for broker in victims))
            await asyncio.sleep(1.0)  # a cluster makes progress only with a majority

    async def _freeze_broker(self, rng: random.Random) -> None:
        async with self._broker_busy:
            broker = rng.choice(self._site.brokers)
            broker.suspend()
            try:
                await asyncio.sleep(rng.uniform(0.2, 4.0))
            finally:
                broker.resume()

    async def _restart(self, _: str, rng: random.Random) -> None:
        """Restart PostgreSQL by a crash or by an orderly shutdown."""
        postgres = self._site.postgres
        assert postgres is not None
        async with self._postgres_busy:
            if rng.random() < 0.7:
                await postgres.kill()
                await asyncio.sleep(rng.uniform(0.0, 1.0))
                await postgres.start()
            else:
                await postgres.restart(rng.choice(["fast", "immediate"]))

    # Connections.

    async def _cut(self, what: str, rng: random.Random) -> None:
        """Apply a fault like `to nats-server delayed` to connections."""
        server, how = what.removeprefix("to ").split(" ")
        proxy = self._proxy(server, rng)
        seconds = rng.uniform(0.5, 4.0)
        if how == "reset":
            proxy.reset()
        elif how == "half-open":
            proxy.half_open()
        else:
            if how == "delayed":
                proxy.delay(rng.uniform(0.05, 0.4))
            else:
                proxy.drop()
            try:
                await asyncio.sleep(seconds)
            finally:
                proxy.heal()

    def _proxy(self, server: str, rng: random.Random) -> Proxy:
        if server == "nats-server":
            return rng.choice(self._site.broker_proxies)
        assert self._site.postgres_proxy is not None
        return self._site.postgres_proxy

    # The service that handlers call.

    async def _take_service_away(self, _: str, rng: random.Random) -> None:
        away = Service(str(self._site.folder)).away
        away.touch()
        try:
            await asyncio.sleep(rng.uniform(1.0, 10.0))
        finally:
            away.unlink(missing_ok=True)  # another outage of the service may have ended meanwhile

    # Events that cannot be handled.

    async def _poison(self, _: str, rng: random.Random) -> None:
        """Send an event that no handler can handle."""
        await self._spoil("broken", ("event", "note"))

    async def _deadly(self, _: str, rng: random.Random) -> None:
        """Send an event that kills the process of each handler."""
        await self._spoil("deadly", (rng.choice(["event", "note"]),))

    async def _spoil(self, action: str, steps: tuple[str, ...]) -> None:
        """Send the event and successors under a separate key, so that the other keys continue."""
        number = next(self._poisons)
        spoiled = Book(f"poison-{number}", f"campaign/{number}", steps, action=action)
        behind = Book(f"poison-{number}", f"campaign/{number}+behind", ("event", "event"))
        site = self._site
        settings = Settings(site.urls["ledger"], site.broker_urls, "ledger", site.options.cluster)
        container = LedgerContainer(config={name: getattr(settings, name) for name in settings.__struct_fields__})
        for command in (spoiled, behind):
            await self._send(container, command)

    async def _send(self, container: LedgerContainer, command: Book) -> None:
        for left in reversed(range(_POISON_TRIES)):
            try:
                async with lifespan(container, relay_elsewhere=True):
                    await container.mediator().send(command)
            except Exception:
                if not left:
                    raise
                await asyncio.sleep(_POISON_PAUSE)
            else:
                return
