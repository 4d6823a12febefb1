"""A rate-limited logger writes a few lines of each text in each period, and counts the others."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mediator.logger import Logger, RateLimitedLogger
from tests.unit.virtual_time import in_virtual_time, now


def limited(lines: int = 3) -> RateLimitedLogger:
    """Return a logger that takes the time of the running event loop, which here is virtual."""
    return RateLimitedLogger(Logger(worker="x"), lines=lines, seconds=10.0)


@in_virtual_time
async def test_omitted_lines_are_counted_at_the_end_of_the_period_and_the_next_period_starts_at_zero() -> None:
    log = limited()
    with capture_logs() as logs:
        assert [log.warning("refused", number=number) for number in range(5)] == [True] * 3 + [False] * 2
        await asyncio.sleep(10.5)
        assert logs[3:] == [
            {
                "event": "similar lines left out",
                "similar_to": "refused",
                "lines": 2,
                "seconds": 10.0,
                "worker": "x",
                "log_level": "warning",
            }
        ]
        assert log.warning("refused")
        await asyncio.sleep(60)
    assert len(logs) == 5


@in_virtual_time
async def test_each_text_has_its_own_limit() -> None:
    log = limited()
    with capture_logs() as logs:
        for _ in range(100):
            log.warning("refused")
        assert log.error("parked", error="X")
    assert logs[-1] == {"event": "parked", "error": "X", "worker": "x", "log_level": "error"}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.0, 8.0)), max_size=60), st.integers(1, 4))
def test_every_line_is_written_or_counted_and_no_period_has_more_than_its_lines(
    moments: list[tuple[str, float]], lines: int
) -> None:
    @in_virtual_time
    async def check() -> None:
        log = limited(lines)
        written: dict[str, list[float]] = {text: [] for text in "ab"}
        with capture_logs() as logs:
            for text, pause in moments:
                await asyncio.sleep(pause)
                if log.info(text):
                    written[text].append(now())
            await asyncio.sleep(11)
        for text in "ab":
            left_out = sum(line["lines"] for line in logs if line.get("similar_to") == text)
            assert len(written[text]) + left_out == [each for each, _ in moments].count(text)
            for begun, later in zip(written[text], written[text][2 * lines :], strict=False):
                assert later - begun >= 10.0

    check()


def test_without_an_event_loop_the_next_line_reports_the_number_of_omitted_lines() -> None:
    time = [0.0]
    log = RateLimitedLogger(Logger(), lines=1, seconds=10.0, clock=lambda: time[0])
    with capture_logs() as logs:
        for _ in range(4):
            log.info("refused")
        time[0] = 10.0
        log.info("refused")
    assert [(line["event"], line.get("lines")) for line in logs] == [
        ("refused", None),
        ("similar lines left out", 3),
        ("refused", None),
    ]
