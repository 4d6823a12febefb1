"""Pools: whether an engine has connections enough for the workers and dispatches of one process."""

from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy.pool import QueuePool

from mediator.cli.doctor.check import Check
from mediator.cli.doctor.finding import Finding, ok, warning
from mediator.cli.doctor.installation import Installation, Part
from mediator.sqlalchemy.engine import database_of

_FOR_ONE_MORE = 1
"""A dispatch beside the workers, or one inside a handler that has a scope of its own."""


class Pools(Check):
    """Each event at hand holds a connection, each relay on PostgreSQL one while it publishes."""

    name = "pool"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """See `Check.run`."""
        for part in installation.databases:
            finding = _finding(installation, part)
            if finding is not None:
                yield finding


def _finding(installation: Installation, part: Part[Any]) -> Finding | None:
    pool = part.value.pool
    if not isinstance(pool, QueuePool) or pool._max_overflow < 0:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # it has no public name
        return None
    capacity = pool.size() + pool._max_overflow  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    consuming = sum(each.concurrency for each in installation.consumers if _is_on(part, each.inboxes))
    relaying = sum(engine is part.value for engine in installation.relays)
    relaying = relaying if database_of(part.value).dialect == "postgresql" else min(relaying, 1)
    needed = consuming + relaying + _FOR_ONE_MORE
    text = (
        f"{capacity} connections; {needed} are needed for {consuming} events at a time, {relaying} relays and one more"
    )
    if capacity >= max(needed, 1 + _FOR_ONE_MORE):
        return ok("pool", part.label, text)
    return warning(
        "pool-size", part.label, text, f"Open the engine with pool_size={needed}, or handle fewer at a time."
    )


def _is_on(part: Part[Any], inboxes: Any) -> bool:
    return any(store.engine is part.value for store in inboxes)
