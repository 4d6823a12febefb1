"""TransportCapability: what an adapter of a broker can do beyond what each must."""

from enum import Enum, auto


class TransportCapability(Enum):
    """Declared as `capabilities`; the cases that need what is not declared are taken out."""

    KEY_ORDERING = auto()
    """`open(ordering="key")`: the events of one partition key are delivered strictly one after the other."""
    DEDUPLICATION = auto()
    """The broker stores an event once, however often its publisher sends it."""
    START_POSITION = auto()
    """A new group may begin with new events only, or with those since a time."""
    OUTAGE = auto()
    """The test can take the broker down and bring it back: `TransportUnderTest.outage`."""
    FOREIGN_MESSAGES = auto()
    """The test can put messages beside the publisher: `TransportUnderTest.put`."""
    SIZE_LIMIT = auto()
    """The broker refuses what is larger than `TransportUnderTest.largest`."""
