"""Options: the options that several commands share, and their types. Invalid values fail before the command runs."""

import functools
import inspect
import math
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from mediator.cli.work import CommandError

_LARGEST = 2**63 - 1
"""The largest whole number that every supported database can store."""
_LONGEST = 10.0 * 365 * 86400
"""The longest time that an option accepts, in seconds: ten years."""
_AGO = re.compile(r"([0-9]+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Number(click.types.FloatParamType):
    """The type of an option whose value is a finite number greater than 0 and at most `most`.

    `zero` allows 0 as well. `unit` is the unit in error texts, such as `"seconds"`.
    """

    name = "float"

    def __init__(self, unit: str, *, zero: bool = False, most: float = _LONGEST) -> None:
        self._unit = unit
        self._zero = zero
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the value as a number. A value that is not allowed raises a usage error that names the option."""
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if 0 < number <= self._most or (number == 0 and self._zero):
            return number
        asked = "0 or more" if self._zero else "more than 0"
        return self.fail(
            f"{value!r} is no number of {self._unit}: use {asked}, and at most {self._most:g}.", param, ctx
        )


class Name(click.types.StringParamType):
    """The type of an option whose value is a name: not blank, and without unprintable characters."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name. A value that is not allowed raises a usage error that names the option."""
        if isinstance(value, str) and value.strip() and value.isprintable():
            return value
        return self.fail(f"{value!r} is not a name: use printable characters.", param, ctx)


SECONDS = Number("seconds")
SECONDS_OR_NONE = Number("seconds", zero=True)
PER_SECOND = Number("events a second", zero=True, most=1e9)
"""A rate in events per second. The type accepts 0; the code that uses the rate rejects 0 and explains why."""
COUNT = click.IntRange(min=1, max=_LARGEST)
COUNT_OR_NONE = click.IntRange(min=0, max=_LARGEST)
NAME = Name()


def partition_key(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Return the key given with `--key`. An empty key usually comes from an unset variable, and is rejected."""
    if value == "":
        raise click.BadParameter("an empty key matches no event; leave the option out to choose the events of all keys")
    return value


def moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Return the time given with `--since`, in seconds since the epoch."""
    if value is None:
        return None
    try:
        seconds = _seconds(value)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter("use ISO 8601, or an age such as 90s, 30m, 12h, 7d") from error
    if seconds < 0:
        raise click.BadParameter(f"{value[:40]!r} lies before 1970")
    return seconds


def _seconds(value: str) -> float:
    if _AGO.fullmatch(value) is not None:
        return time.time() - int(value[:-1]) * _SECONDS[value[-1]]
    given = datetime.fromisoformat(value)
    return (given if given.tzinfo is not None else given.replace(tzinfo=UTC)).timestamp()


TYPE = click.option("--type", "event_type", type=NAME, help="Only events of this type, such as sales.order-placed.v1.")
KEY = click.option("--key", callback=partition_key, help="Only events with this partition key.")


CommandDecorator = Callable[[Callable[..., None]], Callable[..., None]]


def selecting(make: Callable[..., object], *options: CommandDecorator) -> CommandDecorator:
    """Return a decorator that adds options to a command.

    When the command runs, `make` is called with the values of these options. The command gets the result as `selection`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_selection(**given: Any) -> None:
            chosen = {name: given.pop(name) for name in inspect.signature(make).parameters}
            command(selection=make(**chosen), **given)

        decorated: Callable[..., None] = with_selection
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def imported(_context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Check the form of package names, and return them. `check_imported` later checks that the packages are imported."""
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise click.BadParameter(f"{name!r} is not the name of a package, such as shop.events.", param=parameter)
    return names


PACKAGES = click.option(
    "--package",
    "packages",
    metavar="NAME",
    multiple=True,
    callback=imported,
    help="A package with more event classes. The application must import it.",
)
RELAY_ELSEWHERE = click.option("--relay-elsewhere", is_flag=True, help="Another process runs the relay of the outbox.")


def check_imported(packages: tuple[str, ...]) -> None:
    """Raise `CommandError` if the application has not imported a package. Events of this package would be missing."""
    for name in packages:
        if name not in sys.modules:
            text = f"--package {name}: the application does not import it. Correct the name, or import the package."
            raise CommandError(text)
