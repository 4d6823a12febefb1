"""Check: looks at one subject of an installation; all run at the same time, each within a bound."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence

from mediator.cli.doctor.finding import Finding, fault
from mediator.cli.doctor.installation import Installation


class Check(ABC):
    """One subject.

    Attributes:
        name: What it is called when it fails itself.
    """

    name: str

    @abstractmethod
    def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """Look, change nothing, and tell what is found. What could not be opened is told elsewhere."""


async def examine(
    installation: Installation,
    checks: Sequence[Check],
    *,
    timeout: float,  # noqa: ASYNC109  # the bound is part of the promise
) -> list[Finding]:
    """Run checks at the same time, and return what they find, in their order.

    A check that takes longer than `timeout` seconds, or that raises, is a fault itself; what it found before counts.
    """
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(_run(installation, check, timeout)) for check in checks]
    return [finding for task in running for finding in task.result()]


async def _run(installation: Installation, check: Check, seconds: float) -> list[Finding]:
    found: list[Finding] = []
    try:
        async with asyncio.timeout(seconds):
            async for finding in check.run(installation):
                found.append(finding)  # noqa: PERF401  # what was found before a failure counts
    except TimeoutError:
        text = f"the check {check.name!r} was not done within {seconds:g} s"
        found.append(fault("check-timeout", check.name, text, "Give it more time with --timeout, or see what hangs."))
    except Exception as error:  # told: the other checks go on
        text = f"the check {check.name!r} failed: {type(error).__name__}: {error}"
        found.append(fault("check-failed", check.name, text, "The error says what to do."))
    return found
