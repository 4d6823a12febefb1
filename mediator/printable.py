"""Printable text: what may be shown on a terminal, whoever wrote it."""


def printable(text: str) -> str:
    """The text with every control character but the line feed escaped, so that no foreign text moves the cursor."""
    shown = (char if char == "\n" or char.isprintable() else ascii(char)[1:-1] for char in text)
    return "".join(shown)
