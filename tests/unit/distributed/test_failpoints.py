"""Failpoints: nothing happens unless a test arms one."""

import pytest

from mediator.distributed import failpoints


async def test_reaching_an_unarmed_failpoint_does_nothing():
    assert failpoints.armed == {}
    for name in failpoints.NAMES:
        await failpoints.reach(name)


def test_reaching_a_failpoint_never_suspends():
    step = failpoints.reach(failpoints.NAMES[0])
    with pytest.raises(StopIteration):
        step.send(None)


async def test_only_an_armed_failpoint_acts():
    reached: list[str] = []

    async def action() -> None:
        reached.append("here")

    failpoints.armed["relay.after_select"] = action
    try:
        await failpoints.reach("relay.after_publish")
        assert reached == []
        await failpoints.reach("relay.after_select")
    finally:
        del failpoints.armed["relay.after_select"]
    assert reached == ["here"]
