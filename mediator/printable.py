"""Printable text: makes foreign text, errors and tracebacks safe to show in log lines, errors, reports and tables.

Text from the wire, from the broker, from another application or from a foreign class may contain any characters and
have any size. The text that these functions return cannot move the cursor of a terminal, forge a line of a log or fill
a disk. No returned text shows the value of a local variable.
"""

import io
import os
import sys
import sysconfig
import traceback
from pathlib import Path

LONGEST_SHOWN = 255
"""The largest number of characters shown of a text that is normally short, such as an id, a name or a subject."""
LONGEST_REASON = 2000
"""The largest number of characters shown of a text that explains an error."""
LONGEST_REPORT = 50_000
"""The largest number of characters shown of a text with several lines, such as a traceback."""
_LEFT_OUT = "\n... the middle is left out ...\n"


def shown(text: str, longest: int = LONGEST_SHOWN) -> str:
    """Return the text as one line of at most `longest` characters, with an escape for each unprintable character."""
    if len(text) <= longest and text.isprintable():
        return text
    escaped = "".join(map(_escaped, text[: longest + 1]))
    return escaped if len(escaped) <= longest else f"{escaped[: longest - 3]}..."


def shown_reason(text: str) -> str:
    """Return a text that explains an error as one line of at most `LONGEST_REASON` characters."""
    return shown(text, LONGEST_REASON)


def printable(text: str, longest: int | None = None) -> str:
    """Return the text with an escape for each unprintable character other than a line end.

    If the text has more than `longest` characters, its middle is left out.
    """
    text = _without_middle(text, longest)
    if text.isprintable():
        return text
    escaped = "".join(char if char == "\n" else _escaped(char) for char in text)
    return _without_middle(escaped, longest)


def _without_middle(text: str, longest: int | None) -> str:
    if longest is None or len(text) <= longest:
        return text
    half = (longest - len(_LEFT_OUT)) // 2
    return f"{text[:half]}{_LEFT_OUT}{text[-half:]}"


def _escaped(char: str) -> str:
    return char if char.isprintable() else ascii(char)[1:-1]


def escape_unknown_characters() -> None:
    """Make standard output and standard error print an escape for a character that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def text_of(error: BaseException | None) -> str:
    """Return the whole text of an error, even if the `__str__` of its class fails.

    The text may contain unprintable characters: do not log it without `printable` or `shown`.
    """
    try:
        return str(error)
    except Exception as failure:  # the error may be of a foreign class
        return f"its text is not available: {type(failure).__name__}"


def shown_error(error: BaseException | None) -> str:
    """Return the `repr` of an error as one line, even if the `__repr__` of its class fails."""
    try:
        return shown_reason(repr(error))
    except Exception as failure:  # the error may be of a foreign class
        return f"<{type(error).__name__}: its text is not available: {type(failure).__name__}>"


_MOST_LINES = 200
"""The largest number of lines shown of the text of one error."""


def traceback_of(error: BaseException | None) -> str | None:
    """Return the traceback as Python prints it; `None` when there is no error.

    Log lines have the traceback in the field `stack`, not in `exc_info`. For `exc_info`, an unconfigured structlog
    would show local variables, which may hold payloads (https://www.structlog.org/en/stable/exceptions.html).

    Control characters are escaped and long texts are cut, because the text of an error may contain foreign data. All
    lines of the text except the first are indented. Without the indent, they could look like lines of the log.
    """
    return None if error is None else printable("".join(map(_indented, _lines(error))).rstrip(), LONGEST_REPORT)


def _indented(part: str) -> str:
    """Indent all lines of an error's text except the first. Return headings and frames of a traceback unchanged."""
    if part.startswith((" ", "\n", "Traceback ")):
        return part
    first, *further = printable(part.removesuffix("\n"), 2 * LONGEST_REASON).split("\n")[:_MOST_LINES]
    return "".join(f"{line}\n" for line in (first, *(f"    {line}" for line in further)))


def _lines(error: BaseException) -> list[str]:
    try:
        return traceback.format_exception(error)
    except Exception:  # any method of the error's class may fail
        return [*traceback.format_tb(error.__traceback__), f"{type(error).__name__}: {text_of(error)}"]


def place_of(error: BaseException) -> tuple[str, int | None] | None:
    """Return the file and line of the application's code where an error was raised, or `None`.

    For a `SyntaxError`, return the place in the code that does not compile. Frames of Python's import machinery and of
    this library are skipped. Frames of the standard library and of installed packages are used only if there are no
    other frames.
    """
    if isinstance(error, SyntaxError) and error.filename is not None and Path(error.filename).is_file():
        return error.filename, error.lineno or 1
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_file()]
    ours = Path(__file__).parent
    files = ((frame, Path(frame.filename)) for frame in frames)
    outside = [frame for frame, file in files if "importlib" not in file.parts and not file.is_relative_to(ours)]
    own = [frame for frame in outside if not frame.filename.startswith(_INSTALLED)]
    found = own or outside
    return (found[-1].filename, found[-1].lineno) if found else None


def message_of(error: BaseException) -> str:
    """Return the text of an error as one line. For a `SyntaxError`, omit the place, which `place_of` returns."""
    text = error.msg if isinstance(error, SyntaxError) and error.msg else text_of(error)
    return shown_reason(" ".join(text[:LONGEST_REPORT].split()))


_INSTALLED = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib"))
