"""Frozen events: files with the schema and a sample of each event, against which tests check the event classes."""

from mediator.testing.frozen.checking import (
    FrozenReport,
    FrozenSampleWarning,
    check_frozen_events,
    compare_frozen_events,
)
from mediator.testing.frozen.freezing import freeze_events, frozen_file

__all__ = [
    "FrozenReport",
    "FrozenSampleWarning",
    "check_frozen_events",
    "compare_frozen_events",
    "freeze_events",
    "frozen_file",
]
