"""ContainerCapability: what a dependency injection container can do beyond what the mediator needs."""

from enum import Enum, auto


class ContainerCapability(Enum):
    """Declared as `capabilities`; the cases that need what is not declared are taken out."""

    FACTORY = auto()
    """It can make a new object for each that needs one, also within a scope."""
