"""In seeded interleavings every promise holds, and planted faults are found."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import simloop

from tests.interleavings.plants import PLANTS, planted_run
from tests.interleavings.scenarios import SCENARIOS, run

pytestmark = [pytest.mark.thorough("hundreds of runs of whole applications"), pytest.mark.timeout(600)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_seed_breaks_a_promise(name: str) -> None:
    report = simloop.explore(functools.partial(run, name), range(300))
    assert report is None, f"python -m tests.interleavings --scenario {name} --from {report.seed} --seeds 1"


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found_within_2_000_seeds(plant: str) -> None:
    report = simloop.explore(functools.partial(planted_run, plant, PLANTS[plant][0]), range(2000))
    assert report is not None
    assert isinstance(report.exception, AssertionError)


def test_consuming_without_order_is_found_within_50_seeds() -> None:
    report = simloop.explore(functools.partial(planted_run, "consume without order", "keys"), range(50))
    assert report is not None
    assert "order of key" in str(report.exception)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_seed_gives_the_same_run_in_every_process(name: str) -> None:
    """Sets of texts have another order in each process, unless `PYTHONHASHSEED` is set."""
    assert len({_trace_hash(name, hash_seed) for hash_seed in ("1", "2")}) == 1


def _trace_hash(name: str, hash_seed: str) -> str:
    code = (
        "import simloop; from tests.interleavings.scenarios import run; loop = simloop.SimLoop(7);"
        f"loop.run_until_complete(run({name!r})); print(loop.trace_hash())"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2], env=environment,
    )  # fmt: skip
    return done.stdout
