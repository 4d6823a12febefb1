"""Supervisor: starts a process again that has ended, as whoever runs it in production does."""

import asyncio

from tests.faults.campaign.site import Site
from tests.faults.scenarios.processes import Process

_PAUSE = 0.2


class Supervisor:
    """Keeps all processes of a site running.

    Attributes:
        restarts: How often one was started again.
    """

    def __init__(self, site: Site) -> None:
        self.restarts: int = 0
        self._site = site

    def alive(self, names: tuple[str, ...]) -> list[Process]:
        """Those of some names that run."""
        return [each for name in names for each in self._site.running[name] if each.runs]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for name, process in [(name, each) for name, all_ in self._site.running.items() for each in all_]:
                if not process.runs and process in self._site.running.get(name, ()):  # else it was stopped meanwhile
                    await process.start()
                    self.restarts += 1
            await asyncio.sleep(_PAUSE)
