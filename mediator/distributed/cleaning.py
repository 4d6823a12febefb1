"""Cleaning: deletes old rows at intervals, in bounded batches."""

import asyncio
from collections.abc import Awaitable, Callable

from mediator.distributed.shield import is_own_cancellation
from mediator.logger import Logger
from mediator.printable import text_of

SHORTEST_PAUSE = 0.05
"""Shortest pause between two statements of a worker that finds nothing to do, in seconds."""


async def keep_clean(
    clean: Callable[[int], Awaitable[int]],
    interval: float,
    log: Logger,
    failed: str,
    *,
    batch: int = 5000,
    soon: float = 1.0,
) -> None:
    """Call `clean` every `interval` seconds until cancelled.

    `clean(batch)` deletes at most `batch` rows and returns their number. After a full batch the pause is only `soon`
    seconds. After an error the line `failed` is logged, and the next call deletes the rows.
    """
    pause = interval
    while True:
        await asyncio.sleep(max(pause, SHORTEST_PAUSE))
        full = False
        try:
            full = await clean(batch) >= batch
        except (Exception, asyncio.CancelledError) as error:  # logged: the rows are deleted later
            if is_own_cancellation(error):
                raise
            log.warning(failed, error=type(error).__name__, reason=text_of(error))
        pause = min(soon, interval) if full else interval
