"""The command line: `python -m tests.faults.scenarios relays|outage|ordered|flaky|poison|strangers`."""

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

import structlog

from tests.faults.scenarios import flaky, ordered, outage, poison, relays, strangers
from tests.faults.scenarios.report import Report
from tests.faults.scenarios.site import Options, opened_site

SCENARIOS = {
    "relays": (relays.run, 50_000),
    "outage": (outage.run, 300_000),
    "ordered": (ordered.run, 10_000),
    "flaky": (flaky.run, 5_000),
    "poison": (poison.run, 1_000),
    "strangers": (strangers.run, 100_000),
}
"""The scenarios with their default numbers of events."""


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.faults.scenarios", description=__doc__)
    parser.add_argument("scenario", choices=list(SCENARIOS))
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--cluster", type=int, choices=[1, 3], default=1, help="servers of the broker")
    parser.add_argument("--events", type=int, help="how many, at least")
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--accidents", type=int, default=3, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    return parser.parse_args()


async def main(given: argparse.Namespace) -> int:
    """Run one scenario, and return the exit status. SIGTERM ends it like Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    run, events = SCENARIOS[given.scenario]
    report = Report()
    options = Options(
        database=given.database,
        cluster=given.cluster,
        events=given.events or events,
        seed=given.seed,
        keys=given.keys,
        accidents=given.accidents,
    )
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    async with opened_site(options, report) as site:
        await run(site)
    return report.conclude(f"{given.scenario} on {given.database}, {given.cluster} nats-server", given.json)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(parsed())))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
