"""Broker clocks: how far the clocks of this machine and of the brokers are apart."""

from collections.abc import AsyncIterator

from mediator.cli.doctor.check import Check
from mediator.cli.doctor.finding import Finding, ok, warning
from mediator.cli.doctor.installation import Installation

LARGEST_OFFSET = 2.0
"""Seconds."""


class BrokerClocks(Check):
    """The clock of each broker that has a stream."""

    name = "broker-clocks"

    async def run(self, installation: Installation) -> AsyncIterator[Finding]:
        """See `Check.run`."""
        for broker in installation.brokers:
            if broker.offset is not None:
                yield compared(broker.label, "the broker", broker.offset)


def compared(label: str, whose: str, offset: float) -> Finding:
    """What is to be said of a clock that is `offset` seconds ahead of ours."""
    if abs(offset) <= LARGEST_OFFSET:
        return ok("clock", label, f"the clock of {whose} is that of this machine")
    text = f"the clock of {whose} is {abs(offset):.1f} s {'ahead of' if offset > 0 else 'behind'} that of this machine"
    remedy = "Synchronize both (NTP): delayed events, grace and retention go by these clocks."
    return warning("clock-offset", label, text, remedy)
