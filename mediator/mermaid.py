"""Chart: a Mermaid flowchart, written node by node. Texts are escaped; ids are its own."""

from collections.abc import Generator, Hashable
from contextlib import contextmanager

_SAFE = frozenset(" _.,:|[]()")


def label(text: str) -> str:
    """A text as it may stand in a quoted label (https://mermaid.js.org/syntax/flowchart.html, "Entity codes")."""
    inner = ["-" if char == "-" and place else _escaped(char) for place, char in enumerate(text)]
    return "".join(inner)


def _escaped(char: str) -> str:
    return char if char.isalnum() or char in _SAFE else f"#{ord(char)};"


class Chart:
    """Nodes and edges in the order in which they were first named, each once."""

    def __init__(self) -> None:
        self._ids: dict[Hashable, str] = {}
        self._outside: list[str] = []
        self._inside: list[str] = []
        self._edges: dict[str, None] = {}
        self._groups = 0
        self._indent = "  "

    @contextmanager
    def group(self, title: str) -> Generator[None]:
        """Put a frame with a title around the nodes that are first named inside."""
        self._groups += 1
        self._inside.append(f'  subgraph g{self._groups}["{label(title) or " "}"]')
        self._indent = "    "
        try:
            yield
        finally:
            self._indent = "  "
            self._inside.append("  end")

    def node(self, key: Hashable, text: str, opening: str, closing: str, *, outside: bool = False) -> str:
        """The id of a node; it is written when its key is new.

        Args:
            key: What it stands for.
            text: Its text, escaped by `label`.
            opening: Begins its shape.
            closing: Ends its shape.
            outside: Whether it stands outside of every group.
        """
        found = self._ids.get(key)
        if found is None:
            found = self._ids[key] = f"n{len(self._ids) + 1}"
            shape = f'{found}{opening}"{text or " "}"{closing}'  # an empty label is no label
            if outside:
                self._outside.append(f"  {shape}")
            else:
                self._inside.append(f"{self._indent}{shape}")
        return found

    def edge(self, start: str, end: str, text: str = "", *, dotted: bool = False) -> None:
        """An arrow, with a text on it if there is one."""
        arrow = "-.->" if dotted else "-->"
        self._edges[f"  {start} {arrow}{f'|{label(text)}|' if text else ''} {end}"] = None

    def __str__(self) -> str:
        return "\n".join(["flowchart LR", *self._inside, *self._outside, *self._edges])
