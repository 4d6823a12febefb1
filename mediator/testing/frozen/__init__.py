"""Frozen events: samples of payloads, kept in files, against which changes of event classes are checked."""

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
