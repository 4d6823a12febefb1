"""Run: the workers of a container, in the foreground, until a signal ends them."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mediator.cli.errors import CommandError
from mediator.dependency_injector import lifespan
from mediator.dependency_injector.workers import worker_providers

_STOP_GRACE = 15.0
"""Seconds that closing the resources may take, after the workers."""
_INTERRUPTED = 130
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def run_workers(container: Any, *, drain_timeout: float, relay_elsewhere: bool) -> None:
    """Run the workers of a container until SIGTERM or Ctrl-C, then let them finish what they are at.

    A second Ctrl-C, or stopping that takes too long, ends the process at once, which is as safe as a crash: what was not
    committed is rolled back by the database, and what was not acknowledged is delivered again.

    Raises:
        CommandError: The container has no worker.
        Exception: What a worker or a resource raised.
    """
    if not worker_providers(container):
        raise CommandError(
            "The container has nothing to run: add a provider of an OutboxRelay, an EventConsumer, a RequestResponder or an "
            "Idempotency to it."
        )
    stop = _Stop(drain_timeout + _STOP_GRACE)
    with stop.on_signals():
        try:
            async with lifespan(container, workers=True, drain_timeout=drain_timeout, relay_elsewhere=relay_elsewhere):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            if not stop.requested:
                raise


class _Stop:
    """Cancels the task that made it at the first signal, and ends the process when that is not enough."""

    def __init__(self, seconds: float) -> None:
        self.requested = False
        self._seconds = seconds
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in _SIGNALS:
                self._loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if not self.requested:
            self.requested = True
            print("Stopping. Ctrl-C stops at once.", file=sys.stderr, flush=True)
            self._loop.call_later(self._seconds, _exit, 1, f"Stopping took longer than {self._seconds:g} s.")
            if self._task is not None:
                self._task.cancel()
        elif number is signal.SIGINT:
            _exit(_INTERRUPTED, "Stopped at once.")


def _exit(status: int, text: str) -> None:
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)
