"""Bounds: what the settings of constructors can be given, so that one that cannot work is found at the start."""

import math

from mediator.errors import SettingError


def check_counts(**settings: int | None) -> None:
    """Whole numbers of at least 1; `None` stands for no limit.

    Raises:
        SettingError: One is something else.
    """
    for setting, value in settings.items():
        if value is not None and not (_is_number(value, int) and value >= 1):
            raise SettingError(setting, value, "use a whole number, at least 1")


def check_positive(*, at_most: float = math.inf, **settings: float) -> None:
    """Numbers above 0, up to `at_most`.

    Raises:
        SettingError: One is something else.
    """
    for setting, value in settings.items():
        if not (_is_number(value, int, float) and 0 < value <= at_most):
            problem = "use more than 0" if at_most == math.inf else f"use more than 0 and at most {at_most:g}"
            raise SettingError(setting, value, problem)


def check_not_negative(**settings: float) -> None:
    """Numbers from 0.

    Raises:
        SettingError: One is something else.
    """
    for setting, value in settings.items():
        if not (_is_number(value, int, float) and value >= 0):
            raise SettingError(setting, value, "use 0 or more")


def check_texts(*, longest: int, **settings: object) -> None:
    """Texts of 1 to `longest` printable characters, not all of them spaces.

    Raises:
        SettingError: One is something else.
    """
    for setting, value in settings.items():
        if not (isinstance(value, str) and 0 < len(value) <= longest and value.isprintable() and value.strip()):
            raise SettingError(setting, value, f"use 1 to {longest} printable characters")


def _is_number(value: object, *kinds: type) -> bool:
    """Configuration may give texts, whatever the annotations say."""
    return isinstance(value, kinds) and not isinstance(value, bool)
