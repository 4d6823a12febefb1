"""Python processes that start in milliseconds: each is forked from a process that has imported its modules.

`await start("tests.faults.process", "shop", ...)` is `python -m tests.faults.process shop ...` in a process of its own, with
the environment of the moment. Only the interpreter's start and the imports are not repeated: two seconds of CPU time, and
half a second at the end.
Where the start itself is tested, or the memory of the process, it is started anew by `asyncio.create_subprocess_exec`.
"""

import asyncio
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO

_IMPORTED = ("mediator.cli", "tests.end_to_end.refilling", "tests.faults.process", "tests.faults.relaying")


class ForkedProcess:
    """A running process, with the methods of `asyncio.subprocess.Process` that tests use.

    Attributes:
        pid: The process id.
    """

    def __init__(self, pid: int, ended: asyncio.Task[int]) -> None:
        self.pid = pid
        self._ended = ended

    @property
    def returncode(self) -> int | None:
        """The exit status, negative after a signal; `None` while the process runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        """Send a signal; an ended process is ignored."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


async def start(
    module: str,
    *arguments: object,
    stdout: IO[bytes],
    stderr: IO[bytes],
    options: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> ForkedProcess:
    """Run a module as `python -m` does.

    Args:
        module: The module.
        arguments: Its command-line arguments.
        stdout: The file of its standard output.
        stderr: The file of its standard error.
        options: The options of the interpreter, such as `-W error`; they apply to its imports too.
        environment: Environment variables in addition to those of this process.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(_parent(options), [b"."], [theirs.fileno(), stdout.fileno(), stderr.fileno()])
    reader, writer = await asyncio.open_connection(sock=ours)
    order = [module, [*map(str, arguments)], {**os.environ, **(environment or {})}]
    writer.write(json.dumps(order).encode() + b"\n")
    pid = await reader.readline()
    assert pid, "the process that imports the modules has ended; its standard error says why"
    return ForkedProcess(int(pid), asyncio.create_task(_ended(reader, writer)))


async def _ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    status = int(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return status


@functools.cache
def _parent(options: tuple[str, ...]) -> socket.socket:
    """Start the process that all others are forked from; it ends with this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, *options, "-m", "tests.forked", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    atexit.register(process.wait)
    atexit.register(ours.close)  # before the wait, because the last one that was registered is the first to be called
    return ours


def _forked(parent: socket.socket) -> tuple[str, list[str]]:
    """Return the module and the arguments of an order, in the process that is forked for the order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        received, files, _, _ = socket.recv_fds(parent, 1, 3)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not received:
            parent.close()
            sys.exit()
        if os.fork() == 0:
            parent.close()
            return _awaited(*files)
        for file in files:
            os.close(file)


def _awaited(starter: int, stdout: int, stderr: int) -> tuple[str, list[str]]:
    """Fork the process of an order, wait for its end and tell its exit status; in the forked process, return."""
    with socket.socket(fileno=starter) as told:
        with told.makefile("rb") as orders:
            module, arguments, environment = json.loads(orders.readline())
        if pid := os.fork():
            told.sendall(b"%d\n" % pid)
            _, status = os.waitpid(pid, 0)
            told.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for ours, theirs in ((1, stdout), (2, stderr)):
        os.dup2(theirs, ours)
        os.close(theirs)
    os.environ.clear()
    os.environ.update(environment)
    return module, arguments


def main(parent: int) -> None:
    """Import the modules, and run the module of each order in a process of its own."""
    for each in _IMPORTED:
        importlib.import_module(each)
        if not hasattr(sys.modules[each], "__path__"):
            del sys.modules[each]  # the module itself is run anew, as `__main__`; what it has imported stays
    assert threading.active_count() == 1, "a thread would be missing in the forked processes"
    gc.collect()
    gc.freeze()  # otherwise the end of each process visits all that was imported, for half a second of CPU time
    module, arguments = _forked(socket.socket(fileno=parent))
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
