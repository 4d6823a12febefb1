"""A run of the application up to a failpoint, in this process or in a separate one."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from mediator.dependency_injector import lifespan
from mediator.errors import CommittedError
from mediator.testing.failpoints import Cancel, Failure, failpoint, kill
from tests.faults.failpoints.application import configured
from tests.faults.failpoints.situations import SITUATIONS, Situation

_LONGEST = 20.0


class FailpointError(Exception):
    """The error that the failpoint raises."""


class Reached:
    """Records that a failpoint was reached, and then calls an action."""

    def __init__(self, action: Callable[[], Awaitable[None]]) -> None:
        self.event = asyncio.Event()
        self._action = action

    async def __call__(self) -> None:
        self.event.set()
        await self._action()


def configured_for(situation: Situation, place: tuple[str, str, str]) -> Any:
    """Return the container of a situation."""
    return configured(
        *place,
        repaired=situation.repaired,
        drain_timeout=situation.drain_timeout,
        delivery=situation.delivery,
        later_delays=situation.later_delays,
        circuit_failures=situation.circuit_failures,
    )


async def run_in(
    name: str, place: tuple[str, str, str], settled: Callable[[], Awaitable[None]] | None = None
) -> BaseException | None:
    """Run a situation with the armed failpoints until it or `settled` ends, and return the sender's error.

    Args:
        name: The name of the situation.
        place: The URLs of the database and of the broker, and the prefix of the streams.
        settled: Ends a worker, which does not end by itself.
    """
    situation = SITUATIONS[name]
    container = configured_for(situation, place)
    async with lifespan(container, relay_elsewhere=True):
        acting = asyncio.ensure_future(situation.act(container))
        try:
            if settled is not None and situation.orders == () and name != "ask":
                await asyncio.wait((acting,), timeout=_LONGEST)
                await settled()
            elif settled is not None:
                waiting = asyncio.ensure_future(settled())
                await asyncio.wait((acting, waiting), timeout=_LONGEST, return_when=asyncio.FIRST_COMPLETED)
                await waiting
            else:
                await asyncio.wait((acting,), timeout=_LONGEST)
        finally:
            acting.cancel()
            await asyncio.wait((acting,))
    error = None if acting.cancelled() else acting.exception()
    if error is not None and not isinstance(error, FailpointError | CommittedError):
        raise error
    return error


async def fail_in(
    name: str, point: str, place: tuple[str, str, str], settled: Callable[[], Awaitable[None]]
) -> BaseException | None:
    """Raise an exception once at a failpoint, continue until all is settled, and return the sender's error.

    Raises:
        TimeoutError: The failpoint was not reached.
    """
    reached = Reached(Failure(FailpointError(point)))

    async def settled_after_it() -> None:
        async with asyncio.timeout(_LONGEST):
            await reached.event.wait()
        await settled()

    with failpoint(point, reached):
        return await run_in(name, place, settled_after_it)


async def cancel_in(name: str, point: str, place: tuple[str, str, str]) -> bool:
    """Cancel the sender or the worker at the failpoint, and return whether the failpoint was reached."""
    situation = SITUATIONS[name]
    container = configured_for(situation, place)
    async with lifespan(container, relay_elsewhere=True):
        acting = asyncio.ensure_future(situation.act(container))
        reached = Reached(Cancel(acting))
        with failpoint(point, reached):
            async with asyncio.timeout(_LONGEST):
                await asyncio.wait((acting,))
        with contextlib.suppress(asyncio.CancelledError):
            await acting
        return reached.event.is_set()


async def _die(name: str, point: str, place: tuple[str, str, str]) -> None:
    with failpoint(point, kill):
        await run_in(name, place)


def die_in(name: str, point: str, place: tuple[str, str, str]) -> None:
    """Run a process that kills itself at a failpoint."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    asyncio.run(_die(name, point, place))


def quiet() -> Any:
    """Switch the logs off, because other tests check them."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
