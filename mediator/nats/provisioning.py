"""Provisioning: a broker is given what an application wants, as far as that is safe."""

import asyncio
import random
from collections.abc import Callable

from mediator.errors import PublisherUnavailableError
from mediator.nats.api import JetStreamApi
from mediator.nats.consumers import create_consumer, update_consumer
from mediator.nats.plan import Item, plan
from mediator.nats.streams import create_stream, update_stream
from mediator.nats.survey import survey
from mediator.nats.topology import Topology

_ROUNDS = 10
_SETTLING = (0.05, 0.2)


async def provision(
    api: JetStreamApi,
    topology: Topology,
    *,
    done: Callable[[Item], None],
    update_streams: bool = False,
    prune: bool = False,
    rng: random.Random | None = None,
) -> list[Item]:
    """Create what is missing and update what may be; what the broker has after that.

    It may run at several places at a time. The API has no way of changing a consumer only if nobody else did, so
    everything is looked at again after a moment, until nothing is left to do.

    Args:
        api: The broker.
        topology: What is wanted.
        done: Called after each creation and update.
        update_streams: See `plan`.
        prune: See `plan`.
        rng: For the jitter of that moment.

    Raises:
        PublisherUnavailableError: The broker did not answer, refuses something, or is changed again and again.
    """
    chance = rng or random.Random()  # noqa: S311  (jitter, no secret)
    names = ""
    for _ in range(_ROUNDS):
        items = plan(topology, await survey(api, topology), update_streams=update_streams, prune=prune)
        pending = [item for item in items if item.config is not None]
        if not pending:
            return items
        names = ", ".join(item.consumer or item.stream for item in pending)
        for item in pending:
            await _perform(api, item)
            done(item)
        await asyncio.sleep(chance.uniform(*_SETTLING))
    raise PublisherUnavailableError(api.broker, f"something else changes {names} again and again")


async def _perform(api: JetStreamApi, item: Item) -> None:
    config = item.config or {}
    if item.consumer and item.status == "create":
        await create_consumer(api, item.stream, config)
    elif item.consumer:
        await update_consumer(api, item.stream, config)
    elif item.status == "create":
        await create_stream(api, config)
    else:
        await update_stream(api, config)
