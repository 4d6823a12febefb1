"""The command line: `python -m tests.faults --seconds 60 --seed 1 --database sqlite`."""

import argparse
import asyncio
import json
import logging
import random
import signal
import sys
from pathlib import Path

import structlog

from tests.faults.campaign.run import run, tell
from tests.faults.campaign.site import Options, folder_of

_INTERRUPTED = 130


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long faults happen")
    parser.add_argument("--seed", type=int, help="of all that is random; a new one unless given")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--cluster", type=int, choices=[1, 3], default=1, help="servers of the broker")
    parser.add_argument("--log-failures", type=float, default=0.05, metavar="SHARE", help="of the log lines")
    parser.add_argument("--close-failures", type=float, default=0.05, metavar="SHARE", help="of the objects of scopes")
    parser.add_argument(
        "--clock-jumps", action=argparse.BooleanOptionalAction, default=True, help="in one process of each kind"
    )
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--keep", action="store_true", help="keep logs and databases also when nothing is found")
    return parser.parse_args()


async def main(given: argparse.Namespace) -> int:
    """Run one campaign, and return the exit status. SIGTERM ends it like Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    options = Options(
        given.seconds, seed, given.database, given.cluster,
        log_failures=given.log_failures, close_failures=given.close_failures, clock_jumps=given.clock_jumps,
    )  # fmt: skip
    async with folder_of(seed) as (folder, keeping):
        tell(f"seed {seed}, {given.database}, {given.cluster} nats-server, {given.seconds:g} s, in {folder}")
        keeping.wanted = given.keep
        try:
            verdict = await run(options, folder)
        except Exception:
            keeping.wanted = True
            raise
        keeping.wanted = given.keep or verdict.status != 0
        for line in verdict.lines():
            tell(line)
        if keeping.wanted:
            tell(f"Logs and databases are in {folder}")
    if given.json is not None:
        given.json.write_text(json.dumps(verdict.figures(), indent=2) + "\n")
    return verdict.status


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(parsed())))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(_INTERRUPTED)
