"""The command line: `python -m tests.interleavings --seeds 300 --from 0 --scenario keys`.

Exit status 1 tells that a seed failed. The failing run is then repeated, and its trace printed.
"""

import argparse
import functools
import gc
import sys
import time

import simloop

from tests.interleavings.plants import PLANTS, planted_run
from tests.interleavings.scenarios import SCENARIOS, run

_INTERRUPTED = 130


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.interleavings", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, metavar="N", help="of each scenario")
    parser.add_argument("--from", type=int, default=0, metavar="M", dest="first", help="the first seed")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="may be repeated; by default all")
    parser.add_argument("--plant", choices=PLANTS, help="plant a fault, which should be found")
    parser.add_argument("--policy", choices=("random", "pct"), default="random", help="of the scheduler")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the seeds of a scenario")
    return parser.parse_args()


def main(given: argparse.Namespace) -> int:
    """Run the seeds and return the exit status."""
    scenarios = [PLANTS[given.plant][0]] if given.plant else given.scenario or list(SCENARIOS)
    workload = functools.partial(planted_run, given.plant) if given.plant else run
    for name in scenarios:
        started = time.monotonic()
        seeds = range(given.first, given.first + given.seeds)
        gc.freeze()  # each run ends with a collection of garbage, which need not look at the imported modules
        report = simloop.explore(functools.partial(workload, name), seeds, jobs=given.jobs, policy=given.policy)
        if report is not None:
            tell(f"{name}: seed {report.seed} failed: {type(report.exception).__name__}: {report.exception}")
            traces: list[str] = []
            simloop.explore(functools.partial(workload, name, traces=traces), [report.seed], policy=given.policy)
            tell("\n".join(traces))
            plant = f" --plant '{given.plant}'" if given.plant else f" --scenario {name}"
            policy = "" if given.policy == "random" else f" --policy {given.policy}"
            tell(f"Replay: python -m tests.interleavings{plant}{policy} --from {report.seed} --seeds 1")
            return 1
        tell(f"{name}: {given.seeds} seeds from {given.first}, none failed ({time.monotonic() - started:.0f} s)")
    return 0


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main(parsed()))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
