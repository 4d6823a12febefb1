"""Supervisor: restarts processes that have ended, like a process manager in production."""

import asyncio

from tests.faults.campaign.site import Site
from tests.faults.scenarios.processes import Process

_PAUSE = 0.2


class Supervisor:
    """Keeps all processes of a site running.

    Attributes:
        restarts: The number of restarts.
    """

    def __init__(self, site: Site) -> None:
        self.restarts: int = 0
        self._site = site

    def alive(self, names: tuple[str, ...]) -> list[Process]:
        """Return the running processes with these names."""
        return [each for name in names for each in self._site.running[name] if each.runs]

    async def run(self) -> None:
        """Restart processes until the task is cancelled."""
        while True:
            for name, process in [(name, each) for name, all_ in self._site.running.items() for each in all_]:
                if not process.runs and process in self._site.running.get(
                    name, ()
                ):  # otherwise the process was stopped in the meantime
                    await process.start()
                    self.restarts += 1
            await asyncio.sleep(_PAUSE)
