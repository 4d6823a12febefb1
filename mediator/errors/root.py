"""MediatorError: the root of every error, and how errors name what they are about."""


def name_of(message: object) -> str:
    """The short name of a message, a class or a label, for texts."""
    if isinstance(message, str):
        return message
    return message.__name__ if isinstance(message, type) else type(message).__name__


class MediatorError(Exception):
    """The base of every error that this library raises."""

    def __repr__(self) -> str:
        """The text rather than the objects, whose own representation may hold a payload."""
        return f"{type(self).__name__}({str(self)!r})"
