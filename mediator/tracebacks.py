"""Traceback: where an error came from, as text for a log, without the values of local variables."""

import traceback


def traceback_of(error: BaseException | None) -> str | None:
    """The traceback as Python prints it; `None` when there is no error.

    Log lines have it as `stack`. Given `exc_info`, the console renderer of an unconfigured structlog would show the local
    variables of every frame, and with them payloads (https://www.structlog.org/en/stable/exceptions.html).
    """
    return None if error is None else "".join(traceback.format_exception(error)).rstrip()
