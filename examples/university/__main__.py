"""Runs the university: both applications, a broker, and commands of which some fail. Then adds everything up.

The exit status is 0 when every committed command has taken effect in advising exactly once and no other has, 1 when not,
and 130 after Ctrl-C.
"""

import argparse
import asyncio
import contextlib
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from examples.university.audit import Audit, Records, audit
from examples.university.process import ProcessDiedError
from examples.university.progress import Progress
from examples.university.semester import Plan, Semester
from examples.university.stream import NoBrokerError, Stream
from mediator import MediatorError
from mediator.nats import NatsServer


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.university", description=__doc__)
    parser.add_argument("--commands", type=int, default=200, metavar="N", help="how many commands to send")
    parser.add_argument("--seed", type=int, default=0, help="decides who enrolls")
    parser.add_argument("--nats", metavar="URL", help="use this server instead of starting one")
    parser.add_argument("--restart-broker", action="store_true", help="kill nats-server half-way and start it again")
    parser.add_argument("--kill", action="store_true", help="kill each application once and start it again")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="give up after so many seconds")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep databases and logs here")
    options = parser.parse_args(arguments)
    if options.commands < 1:
        parser.error("--commands must be at least 1")
    if options.nats and options.restart_broker:
        parser.error("--restart-broker needs a server of our own: leave --nats out")
    return options


@contextlib.contextmanager
def folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        path = Path(tempfile.mkdtemp(prefix="university-"))
    else:
        keep.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix="run-", dir=keep))
    try:
        yield path
    finally:
        if keep is None:
            shutil.rmtree(path, ignore_errors=True)


async def run(options: argparse.Namespace, data: Path, console: Console) -> Audit:
    plan = Plan(options.commands, options.seed, kill=options.kill, restart_broker=options.restart_broker)
    prefix = f"run-{secrets.token_hex(6)}"  # streams of this run's own: the next one starts from nothing
    async with contextlib.AsyncExitStack() as stack:
        url, server = options.nats, None
        if url is None:
            server = await stack.enter_async_context(NatsServer(data / "nats"))
            url = server.url
        stream = await stack.enter_async_context(Stream.open(url, f"{prefix}-university", group="advising"))
        with Progress(console, options.commands) as progress:
            semester = Semester(plan, data, stream, prefix=prefix, server=server, progress=progress)
            finished = await semester.run(options.timeout)
        result = audit(await records_of(semester, stream))
        if not finished:
            result.problems.append(f"not everything had happened after {options.timeout:g} s")
        return result


async def records_of(semester: Semester, stream: Stream) -> Records:
    ledger = semester.ledger
    return Records(
        commands=semester.plan.commands,
        reports=semester.reports,
        students=ledger.students(),
        letters=ledger.letters(),
        staged=ledger.staged(),
        stored=await stream.ids(),
        effects=ledger.effects(),
        advised=ledger.advised(),
    )


async def supervise(options: argparse.Namespace, data: Path, console: Console) -> Audit:
    """Let SIGTERM end the run as Ctrl-C does: everything is stopped and cleared away."""
    task = asyncio.create_task(run(options, data, console))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    return await task


def main() -> int:
    options = parse()
    console = Console(highlight=False)
    try:
        with folder(options.keep) as data:
            result = asyncio.run(supervise(options, data, console))
            result.show(console)
            if options.keep:
                console.print(f"Databases and logs are in {data}", markup=False, soft_wrap=True)
    except (asyncio.CancelledError, KeyboardInterrupt):
        console.print("Interrupted. Everything is stopped.")
        return 130
    except (ProcessDiedError, NoBrokerError, MediatorError, ExceptionGroup) as error:
        for each in error.exceptions if isinstance(error, ExceptionGroup) else (error,):
            print(each, file=sys.stderr)
        return 1
    return 0 if result.adds_up else 1


if __name__ == "__main__":
    sys.exit(main())
