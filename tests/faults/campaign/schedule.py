"""Schedule: the seed alone determines the kind and time of each fault."""

import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

ROUND_SECONDS = 30.0

_LONGEST = 4
"""The maximum duration of a campaign, as a multiple of the requested one."""

_KILLS = {"SIGKILL writer": 2, "SIGKILL relay": 3, "SIGKILL consumer": 4}
_FREEZES = {"SIGSTOP writer": 1, "SIGSTOP relay": 1, "SIGSTOP consumer": 1}
_BROKER = {"SIGKILL nats-server": 1, "SIGSTOP nats-server": 1}
_POISON = {"poison event": 1, "deadly event": 1}
_SERVICE = {"service away": 1}
_CONNECTIONS = ("delayed", "dropped", "half-open", "reset")


@dataclass(frozen=True, slots=True)
class Planned:
    """A planned fault.

    Attributes:
        at: Seconds after the start.
        kind: The kind of fault.
        rng: The random choices of the fault.
    """

    at: float
    kind: str
    rng: random.Random


def kinds_of(database: str) -> list[str]:
    """Return the faults of one round; a kind may occur several times."""
    counted = {**_KILLS, **_FREEZES, **_BROKER, **_POISON, **_SERVICE}
    counted |= {f"connections to nats-server {each}": 1 for each in _CONNECTIONS}
    if database == "postgresql":
        counted |= {f"connections to PostgreSQL {each}": 1 for each in _CONNECTIONS}
        counted |= {"restart of PostgreSQL": 1}
    return [kind for kind, number in counted.items() for _ in range(number)]


def planned(seed: int, database: str, seconds: float) -> Iterator[Planned]:
    """Return all faults of a campaign: every kind in each half minute, in random order, at random times."""
    rng = random.Random(f"{seed} {database}")
    for number in itertools.count():
        kinds = kinds_of(database)
        rng.shuffle(kinds)
        step = ROUND_SECONDS / len(kinds)
        for place, kind in enumerate(kinds):
            at = number * ROUND_SECONDS + (place + rng.random()) * step
            if at >= seconds:
                return
            yield Planned(at, kind, random.Random(rng.random()))


async def lasting(
    seed: int, database: str, seconds: float, is_enough: Callable[[], Awaitable[bool]]
) -> AsyncIterator[Planned]:
    """Yield the faults of a campaign, and more of them on a slow machine, until enough events took effect for a verdict."""
    for fault in planned(seed, database, _LONGEST * seconds):
        if fault.at >= seconds and await is_enough():
            return
        yield fault
