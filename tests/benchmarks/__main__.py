"""The table of all comparisons: `python -m tests.benchmarks [--rounds 40] [--only send] [--json FILE]`."""

import argparse
import asyncio
import json
import platform
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.comparisons import Comparison, comparisons

COLUMNS = "{:<32} {:<20} {:>11} {:>11} {:>7} {:>7} {:>7}  {}"


async def run(rounds: int, only: str) -> list[dict[str, Any]]:
    """Run the comparisons one by one, with a progress line on the terminal."""
    chosen = [each for each in comparisons() if only in each.name or only in each.against]
    rows = []
    for number, comparison in enumerate(chosen, 1):
        print(f"\r{number}/{len(chosen)} {comparison.name:<40}", end="", file=sys.stderr, flush=True)
        rows.append(await row_of(comparison, rounds))
    print(f"\r{'':<60}\r", end="", file=sys.stderr, flush=True)
    return rows


async def row_of(comparison: Comparison, rounds: int) -> dict[str, Any]:
    times = await comparison.times(rounds)
    ratio = times.ratio(comparison.subject, comparison.reference)
    return {
        "name": comparison.name,
        "against": comparison.against,
        "seconds": times.typical(comparison.subject),
        "seconds_of_other": times.typical(comparison.reference),
        "ratio": ratio,
        "best_ratio": times.best_ratio(comparison.subject, comparison.reference),
        "goal": comparison.goal,
        "reached": ratio <= comparison.goal,
    }


def show(rows: list[dict[str, Any]]) -> None:
    print(COLUMNS.format("what", "against", "ours", "other", "ratio", "best", "goal", ""))
    for row in rows:
        ours, other = (f"{row[key] * 1e6:,.2f} us" for key in ("seconds", "seconds_of_other"))
        ratios = (f"{row[key]:.2f}" for key in ("ratio", "best_ratio", "goal"))
        print(COLUMNS.format(row["name"], row["against"], ours, other, *ratios, "" if row["reached"] else "missed"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="how often each has its turn")
    parser.add_argument("--only", default="", help="a part of what is done, or of what it is compared with")
    parser.add_argument("--json", type=Path, help="write the figures to a file as well")
    options = parser.parse_args()
    rows = asyncio.run(run(options.rounds, options.only))
    show(rows)
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "rounds": options.rounds}
        options.json.write_text(json.dumps({**machine, "rows": rows}, indent=2) + "\n", "utf-8")


main()
