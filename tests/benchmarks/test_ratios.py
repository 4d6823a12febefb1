"""Ratios of speed: no comparison exceeds its ceiling.

The processor times of the best rounds of both contenders are compared, and again with more rounds before a test fails: a
busy machine slows down both contenders, and rarely only one of them in every round.
"""

import pytest

from tests.benchmarks.comparisons import Comparison, comparisons

pytestmark = pytest.mark.thorough("measures")

ROUNDS = (6, 12, 24)


def label(comparison: Comparison) -> str:
    return f"{comparison.name} against {comparison.against}"


@pytest.mark.alone
@pytest.mark.parametrize("comparison", list(comparisons()), ids=label)
async def test_the_measured_ratio_does_not_exceed_its_ceiling(comparison: Comparison):
    ratios: list[float] = []
    for rounds in ROUNDS:
        times = await comparison.times(rounds)
        ratios.append(times.best_ratio(comparison.subject, comparison.reference))
        if ratios[-1] <= comparison.ceiling:
            return
    pytest.fail(f"{label(comparison)}: the ratios {ratios} exceed the ceiling {comparison.ceiling}")
