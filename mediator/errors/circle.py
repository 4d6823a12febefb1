"""Circle: the messages at the end of a path that cause each other without end."""

from collections.abc import Sequence

from mediator.errors.root import name_of


def circle_in(path: Sequence[object]) -> Sequence[str]:
    """The names of the messages that cause each other, once each; empty when there is no circle."""
    names = [name_of(message) for message in path]
    last = names[-1] if names else ""
    before = len(names) - 2 - names[-2::-1].index(last) if last in names[:-1] else None
    return names[before + 1 :] if before is not None else []


def shown(path: Sequence[object]) -> str:
    """The circle, closed, or else the whole path."""
    circle = circle_in(path)
    return " -> ".join([circle[-1], *circle] if circle else [name_of(message) for message in path])
