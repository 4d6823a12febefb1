"""Survey: what a broker has of the streams and consumers that an application is concerned with."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from mediator.errors import PublisherUnavailableError
from mediator.nats.api import ApiError, JetStreamApi
from mediator.nats.topology import Topology


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found, as the API tells it: `config`, `state` and more of each.

    Attributes:
        streams: By name: those that are wanted, as far as they exist.
        consumers: By stream and name: those of every stream of the same prefixes.
    """

    streams: Mapping[str, dict[str, Any]]
    consumers: Mapping[tuple[str, str], dict[str, Any]]


async def survey(api: JetStreamApi, topology: Topology) -> Survey:
    """Look at a broker, without changing anything.

    Raises:
        PublisherUnavailableError: The broker did not answer, or its user may not ask.
    """
    prefixes = tuple(f"{prefix}-" for prefix in topology.prefixes)
    names = [name async for name in _pages(api, "STREAM.NAMES", "streams") if name.startswith(prefixes)]
    wanted = [stream.name for stream in topology.streams]
    streams = {name: found for name in wanted if name in names and (found := await api.stream(name)) is not None}
    consumers = {
        (stream, info["name"]): info
        for stream in names
        async for info in _pages(api, f"CONSUMER.LIST.{stream}", "consumers")
    }
    return Survey(streams, consumers)


async def _pages(api: JetStreamApi, subject: str, key: str) -> AsyncIterator[Any]:
    offset = 0
    while True:
        try:
            answer = await api.call(subject, {"offset": offset})
        except ApiError as error:
            raise PublisherUnavailableError(api.broker, f"{subject} cannot be listed: {error}") from error
        page: list[Any] = answer.get(key) or []
        for each in page:
            yield each
        offset += len(page)
        if not page or offset >= answer.get("total", 0):
            return
