"""RequestCapability: what an adapter for requests to other applications can do beyond what each must."""

from enum import Enum, auto


class RequestCapability(Enum):
    """Declared as `capabilities`; the cases that need what is not declared are taken out."""

    OUTAGE = auto()
    """The test can take the broker down and bring it back: `RequestsUnderTest.outage`."""
    SIZE_LIMIT = auto()
    """The broker refuses what is larger than `RequestsUnderTest.largest`."""
