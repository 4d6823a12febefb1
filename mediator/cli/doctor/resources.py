"""Resources: started at the same time as far as they can, each within a bound, and stopped in the end."""

import asyncio
import contextlib
from collections.abc import Collection
from typing import Any

from mediator.dependency_injector.graph import Graph


class Resources:
    """The resources that some parts of a container need.

    Args:
        graph: Of the container.
        seconds: How long starting, and stopping, each may take.

    Attributes:
        errors: Why a resource could not be started, by its provider.
        skipped: Those that were not tried, since they need one that could not be started.
    """

    def __init__(self, graph: Graph, seconds: float) -> None:
        self.errors: dict[Any, Exception] = {}
        self.skipped: set[Any] = set()
        self._graph = graph
        self._seconds = seconds
        self._started: list[Any] = []

    async def start(self, wanted: Collection[Any]) -> None:
        """Start those of the providers wanted, and what they need, each after what it needs itself."""
        running: dict[Any, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            for resource in self._graph.resources():
                if resource in wanted:
                    needs = self._graph.reachable([resource])
                    before = [task for other, task in running.items() if other in needs]
                    running[resource] = group.create_task(self._start(resource, before))

    def away(self, provider: Any) -> bool:
        """Whether something that a provider needs could not be started."""
        return not self._graph.reachable([provider]).isdisjoint({*self.errors, *self.skipped})

    async def stop(self) -> None:
        """Stop what was started, the last one first. What fails in that is of no consequence for a report."""
        for resource in reversed(self._started):
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._seconds):
                    stopping = resource.shutdown()
                    if stopping is not None:
                        await stopping

    async def _start(self, resource: Any, before: list[asyncio.Task[None]]) -> None:
        if before:
            await asyncio.wait(before)
        if self.away(resource):
            self.skipped.add(resource)
            return
        try:
            async with asyncio.timeout(self._seconds):
                starting = resource.init()
                if asyncio.isfuture(starting) or asyncio.iscoroutine(starting):
                    await starting
        except TimeoutError:
            self.errors[resource] = TimeoutError(f"no answer within {self._seconds:g} s")
        except Exception as error:  # told in the report
            self.errors[resource] = error
        else:
            self._started.append(resource)
