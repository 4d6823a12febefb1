"""Run: runs the workers of a container in the foreground, until a signal stops them."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from mediator.blocks import contextmanager
from mediator.cli.work import CommandError
from mediator.dependency_injector import lifespan
from mediator.dependency_injector.workers import worker_providers

_STOP_GRACE = 15.0
"""Seconds that closing the resources may take after the workers have stopped."""
_INTERRUPTED = 130
_SIGNALS = (signal.SIGTERM, signal.SIGINT, *([signal.Signals["SIGBREAK"]] if hasattr(signal, "SIGBREAK") else []))


async def run_workers(container: Any, *, drain_timeout: float, relay_elsewhere: bool) -> None:
    """Run the workers of a container. At SIGTERM or Ctrl-C, let the workers finish their current work, and return.

    A second Ctrl-C, or a stop that takes too long, ends the process at once. This is as safe as a crash: the database
    rolls back what was not committed, and the broker redelivers what was not acknowledged.
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
    """At the first signal, stops the task that created this object.

    A second Ctrl-C, or a stop that takes longer than `seconds`, ends the process at once.
    """

    def __init__(self, seconds: float) -> None:
        self.requested = False
        self._seconds = seconds
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        undo = [self._listen(number) for number in _SIGNALS]
        try:
            yield
        finally:
            for each in undo:
                each()

    def _listen(self, number: signal.Signals) -> Callable[[], object]:
        """Install a handler of a signal, and return a function that removes the handler."""
        try:
            self._loop.add_signal_handler(number, self._on_signal, number)
        except NotImplementedError:  # on Windows
            return partial(signal.signal, number, signal.signal(number, self._on_interruption))
        return partial(self._loop.remove_signal_handler, number)

    def _on_interruption(self, number: int, _frame: object) -> None:
        """Let the event loop handle a signal later, since this handler may have interrupted the loop at any point."""
        self._loop.call_soon_threadsafe(self._on_signal, signal.Signals(number))

    def _on_signal(self, number: signal.Signals) -> None:
        if not self.requested:
            self.requested = True
            _print_error("Stopping. Ctrl-C stops at once.")
            self._loop.call_later(self._seconds, _exit, 1, f"Stopping took longer than {self._seconds:g} s.")
            if self._task is not None:
                self._task.cancel()
        elif number is signal.SIGINT:
            _exit(_INTERRUPTED, "Stopped at once.")


def _print_error(text: str) -> None:
    """Print a text to standard error. Failures are ignored: the process must end even if nobody can read the text."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _exit(status: int, text: str) -> None:
    _print_error(text)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(status)
