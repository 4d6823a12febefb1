"""Settings: what a container gives to its parts, as far as it can be had and can work."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from mediator.cli.doctor.installation import Failure, Installation
from mediator.cli.doctor.resources import Resources
from mediator.dependency_injector import provider_kinds as kinds
from mediator.dependency_injector.graph import Graph


class Settings:
    """The arguments of parts, which are not made for that.

    Args:
        installation: Where failures are noted.
        graph: Of its container.
        resources: What was started.
    """

    def __init__(self, installation: Installation, graph: Graph, resources: Resources) -> None:
        self._installation = installation
        self._graph = graph
        self._resources = resources
        self._known: dict[tuple[Any, str], Any] = {}

    async def of(self, provider: Any, name: str, check: Callable[..., None]) -> Any:
        """What a provider gives for an argument of what it makes; `None` when it does not say.

        `None`, too, when it cannot be had or the check refuses it, which becomes one failure, however often it is asked for.
        """
        if (provider, name) not in self._known:
            self._known[provider, name] = await self._asked(provider, name, check)
        return self._known[provider, name]

    def is_given(self, provider: Any, name: str) -> bool:
        """Whether a provider says something for an argument of what it makes."""
        return name in _arguments(provider)

    async def _asked(self, provider: Any, name: str, check: Callable[..., None]) -> Any:
        given = _arguments(provider).get(name)
        if not self.is_given(provider, name) or self._is_away(given):
            return None
        seconds = self._installation.options.timeout
        try:
            async with asyncio.timeout(seconds):
                value = await resolved(given)
            check(**{name: value})
        except TimeoutError:
            self._fail(provider, name, TimeoutError(f"no answer within {seconds:g} s"))
        except Exception as error:  # told in the report
            self._fail(provider, name, error)
        else:
            return value
        return None

    def _is_away(self, given: Any) -> bool:
        """Whether it needs something that could not be started, which is told of that."""
        return kinds.is_provider(given) and given in self._graph.calls and self._resources.away(given)

    def _fail(self, provider: Any, name: str, error: Exception) -> None:
        self._installation.failures.append(Failure(self._graph.labels[provider], "part", error, name))


def _arguments(provider: Any) -> dict[str, Any]:
    effective = kinds.effective(provider)
    return dict(effective.kwargs) if isinstance(effective, kinds.CALLING) else {}


async def resolved(value: Any) -> Any:
    """A value, or what its provider gives."""
    if not kinds.is_provider(value):
        return value
    made = value()
    return await made if inspect.isawaitable(made) else made
