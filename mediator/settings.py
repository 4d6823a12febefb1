"""Settings: checks the numbers and texts given to constructors, so that an unusable value is found at the start.

Each `check_` function raises a `SettingError` for the first setting with an unusable value.
"""

import math
from typing import TypeGuard

from mediator.errors import SettingError

_LARGEST = 2**63 - 1
LONGEST_OF_BROKER = 292 * 365 * 86400.0
"""The longest time that the broker can store, in seconds. The broker counts nanoseconds in 63 bits."""


def check_counts(**settings: int | None) -> None:
    """Check that settings are whole numbers of at least 1, or `None` for no limit."""
    for setting, value in settings.items():
        if value is not None and not is_count(value):
            raise SettingError(setting, value, "use a whole number, at least 1")


def check_positive(*, at_most: float = math.inf, **settings: float) -> None:
    """Check that settings are numbers above 0 and at most `at_most`."""
    for setting, value in settings.items():
        if not (_is_number(value) and 0 < value <= at_most):
            problem = "use more than 0" if at_most == math.inf else f"use more than 0 and at most {at_most:g}"
            raise SettingError(setting, value, problem)


def check_not_negative(**settings: float) -> None:
    """Check that settings are numbers of at least 0."""
    for setting, value in settings.items():
        if not (_is_number(value) and value >= 0):
            raise SettingError(setting, value, "use 0 or more")


def check_texts(*, longest: int, **settings: object) -> None:
    """Check that settings are texts of 1 to `longest` printable characters, not all of them spaces."""
    for setting, value in settings.items():
        if not (isinstance(value, str) and 0 < len(value) <= longest and value.isprintable() and value.strip()):
            raise SettingError(setting, value, f"use 1 to {longest} printable characters")


def is_count(value: object) -> bool:
    """Return whether a value is a whole number of at least 1 that every database and broker can store."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST


def is_seconds(value: object, *, at_most: float = math.inf) -> bool:
    """Return whether a value is a finite number of seconds above 0 and at most `at_most`."""
    return _is_number(value) and math.isfinite(value) and 0 < value <= at_most


def is_pause(value: object) -> bool:
    """Return whether a value is a finite number of seconds of at least 0."""
    return is_seconds(value) or (_is_number(value) and value == 0)


def _is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a number and no bool. Values from configuration may have any type."""
    return isinstance(value, int | float) and not isinstance(value, bool)
