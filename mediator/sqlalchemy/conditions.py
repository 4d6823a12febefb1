"""Condition: what a column has to hold; that no row fits a value which no column can hold is no error of the database.

Such values are typed by hand: a number with too many digits, or a text that is no UTF-8, which Python reads from a command
line as lone surrogates.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, false

from mediator.distributed.identity import is_storable

_NUMBERS = range(2**63)


def is_number(value: int) -> bool:
    """Whether a column of numbers can hold it."""
    return value in _NUMBERS


def is_text(column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    """Whether a column of at most 255 characters has this text."""
    return column == value if is_storable(value) else false()


def starts_with(column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    """Whether a column of at most 255 characters begins with this text, whatever LIKE would make of it."""
    return column.startswith(value, autoescape=True) if is_storable(value) else false()


def is_one_of_texts(column: ColumnElement[Any], values: Collection[str]) -> ColumnElement[bool]:
    """Whether a column of at most 255 characters has one of these texts."""
    return column.in_([value for value in values if is_storable(value)])


def is_one_of_numbers(column: ColumnElement[Any], values: Collection[int]) -> ColumnElement[bool]:
    """Whether a column has one of these numbers."""
    return column.in_([value for value in values if is_number(value)])
