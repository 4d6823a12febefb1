"""Process: a simulated process of the operating system. It owns tasks, and can be killed, frozen and started again."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

T = TypeVar("T")

_LATENCIES = (0.0, 0.0, 0.0, 0.001, 0.002, 0.005, 0.02, 0.3)
"""Seconds that a request or its answer may travel. A travel of 0 s lets other tasks run, too."""

_NOTICE_SECONDS = 1.0
"""Seconds until a server notices the death of a process. Until then all requests of the process have arrived."""


class KilledError(BaseException):
    """Ends a task of a killed process at its next request. No `except Exception` can catch it, as with a real death."""


class _Task(asyncio.Task[Any]):
    """A task whose place in a set follows from its number, and not from its address, which differs between runs."""

    numbers = itertools.count()

    def __init__(self, work: Any, **options: Any) -> None:
        self._number = next(self.numbers)
        super().__init__(work, **options)

    def __hash__(self) -> int:
        return self._number


class Process:
    """A process, and the tasks that run in it.

    Attributes:
        alive: False after `kill`. A dead process changes nothing outside itself any more.
        at_death: What servers do when they notice that the connections of the dead process have ended.
    """

    main: asyncio.Task[Any]

    def __init__(self, processes: "Processes", name: str) -> None:
        self.name = name
        self.alive = True
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.at_death: list[Callable[[], None]] = []
        self._processes = processes
        self._thawed = asyncio.Event()
        self._thawed.set()

    def kill(self) -> None:
        """End the process as SIGKILL does: requests that have left arrive, and their answers are lost."""
        if self.alive:
            self.alive = False
            self._thawed.set()
            self._processes.note(f"{self.name} is killed")
            asyncio.get_running_loop().call_later(_NOTICE_SECONDS, self._hang_up)
            self._cancel()

    def _hang_up(self) -> None:
        for act in self.at_death:
            act()

    def _cancel(self) -> None:
        """Cancel the tasks until none is left, because the code under test delays a cancellation here and there."""
        left = [task for task in self.tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            asyncio.get_running_loop().call_later(1.0, self._cancel)

    def stop(self) -> None:
        """Stop the process as SIGTERM does: its work is cancelled once, and drains."""
        if self.alive:
            self._processes.note(f"{self.name} is stopped")
            self.main.cancel()

    def freeze(self, seconds: float) -> None:
        """Let no request and no answer of the process pass for some seconds, as SIGSTOP does."""
        self._processes.note(f"{self.name} is frozen for {seconds:g} s")
        self._thawed.clear()
        asyncio.get_running_loop().call_later(seconds, self._thawed.set)

    async def travel(self) -> None:
        """Wait for the network.

        Raises:
            KilledError: The process is dead.
        """
        await asyncio.sleep(self._processes.rng.choice(_LATENCIES))
        await self._thawed.wait()
        if not self.alive:
            raise KilledError(self.name)

    async def send(self) -> None:
        """Let a request travel. A request of a process that dies meanwhile may arrive all the same."""
        if not self.alive:
            raise KilledError(self.name)
        try:
            await self.travel()
        except (asyncio.CancelledError, KilledError):
            if self.alive or self._processes.rng.random() < 0.5:
                raise


class Processes:
    """All processes of one run, and the network between them and the servers.

    Attributes:
        rng: Makes all random decisions of the run but those of the scheduler.
        trace: What happened, for the reader of a failure.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.trace: list[str] = []
        self.running: dict[str, Process] = {}
        self._all: list[Process] = []
        self._owners: WeakKeyDictionary[asyncio.Task[Any], Process] = WeakKeyDictionary()
        self._on_server: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._loop = asyncio.get_running_loop()
        _Task.numbers = itertools.count()
        self._loop.set_task_factory(self._make_task)
        self._loop.set_exception_handler(self._on_error)

    def _make_task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        """Make a task, which belongs to the process of the running task."""
        task = _Task(work, loop=loop, **options)
        if (owner := self.current()) is not None:
            self._own(task, owner)
        return task

    def _own(self, task: asyncio.Task[Any], owner: Process) -> None:
        self._owners[task] = owner
        owner.tasks.add(task)

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Let an error that nobody awaited fail the run, unless the process that it belongs to was killed."""
        if not isinstance(context.get("exception"), KilledError):
            loop.default_exception_handler(context)

    def note(self, text: str) -> None:
        self.trace.append(f"{self._loop.time():10.3f}  {text}")

    def current(self) -> Process | None:
        """Return the process of the running task; `None` for the test itself."""
        running = asyncio.current_task() if asyncio._get_running_loop() is not None else None
        return None if running is None else self._owners.get(running)

    def start(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> Process:
        """Start a process with the given work. An earlier process of this name must be dead."""
        process = self.running[name] = Process(self, name)
        self._all.append(process)
        self.note(f"{name} starts")
        process.main = self._loop.create_task(self._run(process, work))
        self._own(process.main, process)
        return process

    async def _run(self, process: Process, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except BaseException:  # a dead process tells nobody its errors
            if process.alive:
                raise
        finally:
            process.alive = False

    async def end(self) -> None:
        """End all tasks of all processes, so that nothing runs after the run."""
        for process in self._all:
            process.kill()
        while left := [task for process in self._all for task in process.tasks if not task.done()]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=1.0)

    async def carry(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Let a request travel to its server, do the operation there, and let the answer travel back."""
        process, task = self.current(), asyncio.current_task()
        if process is None or task is None or task in self._on_server:
            return await operation()
        await process.send()
        self._on_server.add(task)
        try:
            answer = await operation()
        except Exception:
            self._on_server.discard(task)
            await process.travel()
            raise
        finally:
            self._on_server.discard(task)
        await process.travel()
        return answer
