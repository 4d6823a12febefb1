"""Traceback: where an error came from, as text for a log, without the values of local variables."""

import traceback

from mediator.printable import printable


def traceback_of(error: BaseException | None) -> str | None:
    """The traceback as Python prints it; `None` when there is no error.

    Log lines have it as `stack`. Given `exc_info`, the console renderer of an unconfigured structlog would show the local
    variables of every frame, and with them payloads (https://www.structlog.org/en/stable/exceptions.html). Control
    characters are escaped: the text of an error may repeat what a stranger sent, and the log may be read on a terminal.
    """
    return None if error is None else printable("".join(traceback.format_exception(error)).rstrip())
