"""Description: the pipelines of an application's messages as text, as JSON or as a flowchart."""

import json
from collections.abc import Generator, Hashable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mediator.binding import Binding
from mediator.blocks import contextmanager
from mediator.describe.dispatches import Dispatch, dispatches_of, kind_of, wire_name
from mediator.errors import HandlerNotFoundError, SettingError
from mediator.handlers import spelled, type_arguments
from mediator.messages import Notification, Request, StreamRequest, is_request, is_stream_request
from mediator.registry import Pipeline, Registry

_SAFE = frozenset(" _.,:|[]()")


def label(text: str) -> str:
    """Escape a text for a quoted Mermaid label (https://mermaid.js.org/syntax/flowchart.html, "Entity codes")."""
    return "".join("-" if char == "-" and place else _escaped(char) for place, char in enumerate(text))


def _escaped(char: str) -> str:
    return char if char.isalnum() or char in _SAFE else f"#{ord(char)};"


class Chart:
    """A Mermaid flowchart. Each node and edge is written once, in the order in which they are first added."""

    def __init__(self) -> None:
        self._ids: dict[Hashable, str] = {}
        self._outside: list[str] = []
        self._inside: list[str] = []
        self._edges: dict[str, None] = {}
        self._groups = 0
        self._indent = "  "

    @contextmanager
    def group(self, title: str) -> Generator[None]:
        """Put a frame with a title around the nodes that are added in the block."""
        self._groups += 1
        self._inside.append(f'  subgraph g{self._groups}["{label(title) or " "}"]')
        self._indent = "    "
        try:
            yield
        finally:
            self._indent = "  "
            self._inside.append("  end")

    def node(self, key: Hashable, text: str, opening: str, closing: str, *, outside: bool = False) -> str:
        """Return the id of a node. If the key is new, add the node; if `outside` is true, add it outside all groups.

        The caller escapes `text` with `label`. `opening` and `closing` are the characters around the text; they make the
        node's shape.
        """
        found = self._ids.get(key)
        if found is None:
            found = self._ids[key] = f"n{len(self._ids) + 1}"
            shape = f'{found}{opening}"{text or " "}"{closing}'  # Mermaid has no empty labels
            if outside:
                self._outside.append(f"  {shape}")
            else:
                self._inside.append(f"{self._indent}{shape}")
        return found

    def edge(self, start: str, end: str, text: str = "", *, dotted: bool = False) -> None:
        """Add an arrow. A `text` that is not empty is written on the arrow."""
        arrow = "-.->" if dotted else "-->"
        self._edges[f"  {start} {arrow}{f'|{label(text)}|' if text else ''} {end}"] = None

    def __str__(self) -> str:
        return "\n".join(["flowchart LR", *self._inside, *self._outside, *self._edges])


Format = Literal["text", "json", "mermaid"]

_VERBS = {"notification": "publishes", "event": "raises", "stream": "streams"}


@dataclass(frozen=True, slots=True)
class Application:
    """A mediator's registry and the messages to describe.

    Attributes:
        name: The heading when several applications are described; empty for a single one.
        registry: The handlers and behaviors.
        messages: The message classes to describe.
    """

    name: str
    registry: Registry
    messages: Sequence[type]


def described(applications: Sequence[Application], form: Format = "text") -> str:
    """Describe one or several applications in one of the formats.

    The text form shows the exact pipeline of every message. The JSON form is for programs. It has the same content, and
    also the messages that each handler and behavior dispatches. The Mermaid form (https://mermaid.js.org) is a
    flowchart in which distributed events connect the applications.

    Raises:
        HandlerNotFoundError: One of the messages is a request without a handler.
        SettingError: `form` is no `Format`.
    """
    if form not in get_args(Format):
        raise SettingError("format", form, f"it is none of {', '.join(get_args(Format))}.")
    if form == "json":
        return json.dumps({"applications": [_as_json(each) for each in applications]}, indent=2)
    if form == "mermaid":
        return _as_mermaid(applications)
    texts = [(each.name, each.registry.describe_all(each.messages)) for each in applications if each.messages]
    return "\n\n".join(f"{name}\n\n{text}" if name else text for name, text in texts)


def _as_json(application: Application) -> dict[str, Any]:
    pipelines = [application.registry.pipeline(cls) for cls in application.messages]
    return {"name": application.name, "messages": [_message_as_json(pipeline) for pipeline in pipelines]}


def _message_as_json(pipeline: Pipeline) -> dict[str, Any]:
    message = pipeline.message_type
    described: dict[str, Any] = {"name": message.__name__, "class": _path(message), "kind": kind_of(message)}
    if response := type_arguments(message, Request):
        described["response"] = spelled(response[0])
    if items := type_arguments(message, StreamRequest):
        described["items"] = spelled(items[0])
    if wire_name(message):
        described["event_type"] = wire_name(message)
    if issubclass(message, Notification):
        described["strategy"] = repr(pipeline.strategy)
    described["behaviors"] = [_part_as_json(each) for each in pipeline.behaviors]
    described["handler_behaviors"] = [_part_as_json(each) for each in pipeline.handler_behaviors]
    described["handlers"] = [_part_as_json(each) for each in pipeline.handlers]
    return described


def _part_as_json(binding: Binding) -> dict[str, Any]:
    found = [
        {
            "name": each.message.__name__,
            "class": _path(each.message),
            "kind": kind_of(each.message),
            "found": "declared" if each.declared else "read in the code",
        }
        for each in dispatches_of(binding.cls)
    ]
    return {"name": binding.cls.__name__, "class": _path(binding.cls), "label": binding.label, "dispatches": found}


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _as_mermaid(applications: Sequence[Application]) -> str:
    chart = Chart()
    for application in applications:
        with chart.group(application.name) if application.name else nullcontext():
            _draw(chart, application)
    return str(chart)


def _draw(chart: Chart, application: Application) -> None:
    for pipeline in _reachable(application):
        if kind_of(pipeline.message_type) == "event" and not pipeline.handlers:
            continue  # another application handles the event
        message = _message_node(chart, application, pipeline.message_type)
        for behavior in pipeline.behaviors:
            _draw_dispatches(chart, application, message, behavior)
        if pipeline.behaviors:
            chain = chart.node(
                (application.name, pipeline.message_type, "chain"), _lines(pipeline.behaviors), "([", "])"
            )
            chart.edge(message, chain)
            message = chain
        for handler in pipeline.handlers:
            lines = _lines([*pipeline.handler_behaviors, handler])
            key = (application.name, handler.label, handler.cls, lines)
            node = chart.node(key, lines, "[[", "]]")
            chart.edge(message, node)
            _draw_dispatches(chart, application, node, handler)


def _lines(bindings: Iterable[Binding]) -> str:
    return "<br/>".join(label(binding.cls.__name__) for binding in bindings)


def _draw_dispatches(chart: Chart, application: Application, node: str, binding: Binding) -> None:
    for each in dispatches_of(binding.cls):
        verb = _VERBS.get(kind_of(each.message), "sends")
        chart.edge(node, _message_node(chart, application, each.message), verb, dotted=not each.declared)


def _message_node(chart: Chart, application: Application, message: type) -> str:
    wire = wire_name(message)
    if wire:
        return chart.node(wire, label(wire), "{{", "}}", outside=True)
    response = type_arguments(message, Request) or type_arguments(message, StreamRequest)
    arrow = "→ stream of" if is_stream_request(message) else "→"
    text = label(message.__name__) + (f" {arrow} {label(spelled(response[0]))}" if response else "")
    opening, closing = ("[", "]") if response or is_request(message) else ("(", ")")
    return chart.node((application.name, message), text, opening, closing)


def _reachable(application: Application) -> Iterator[Pipeline]:
    """Yield the pipelines of the chosen messages, and of all messages that these pipelines dispatch, at any depth."""
    waiting, seen = list(application.messages), set[type]()
    chosen = len(waiting)
    for number, message in enumerate(waiting):  # the list grows during the loop
        if message in seen:
            continue
        seen.add(message)
        try:
            pipeline = application.registry.pipeline(message)
        except HandlerNotFoundError:
            if number < chosen:
                raise
            continue
        yield pipeline
        waiting += [each.message for each in _dispatched(pipeline)]


def _dispatched(pipeline: Pipeline) -> Iterator[Dispatch]:
    for binding in (*pipeline.behaviors, *pipeline.handler_behaviors, *pipeline.handlers):
        yield from dispatches_of(binding.cls)
