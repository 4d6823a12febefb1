"""Log lines of the package: written by the guarded logger, with field names that every logging library accepts."""

import ast
import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.architecture.package import FILES, label

METHODS = {"debug", "info", "warning", "error", "bind", "exception", "critical"}
LOGGERS = {"Logger", *METHODS}
RESERVED = {
    *vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "exc_info", "stack_info", "stacklevel", "extra",
    "event", "level", "logger", "timestamp",
}  # fmt: skip
"""Names of record attributes and method parameters of `logging`, and of keys that structlog's processors write."""


@cache
def nodes(file: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(file.read_text())))


def calls(file: Path) -> Iterator[ast.Call]:
    return (node for node in nodes(file) if isinstance(node, ast.Call))


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def fields_of(file: Path) -> Iterator[str]:
    """Return the field names in log calls and in the dictionaries that functions named `...fields` return."""
    for call in calls(file):
        if (
            name_of(call) in LOGGERS
            and any(each.arg for each in call.keywords)
            and "log" in ast.unparse(call.func).lower()
        ):
            yield from (keyword.arg for keyword in call.keywords if keyword.arg is not None)
    for node in nodes(file):
        if isinstance(node, ast.FunctionDef) and node.name.endswith("fields"):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and inner.value.isidentifier():
                    yield inner.value


def test_only_the_guarded_logger_calls_structlog_get_logger():
    asking = {"get_logger", "getLogger", "wrap_logger"}
    assert [label(file) for file in FILES for call in calls(file) if name_of(call) in asking] == ["logger.py"]


def test_no_field_of_a_log_line_has_a_name_that_logging_reserves():
    assert [(label(file), name) for file in FILES for name in fields_of(file) if name in RESERVED] == []


def test_the_search_finds_fields_of_calls_and_of_functions_that_return_fields():
    found = {name for file in FILES for name in fields_of(file)}
    assert {
        "transaction_id",
        "message_type",
        "reason",
        "worker",
        "event_id",
        "number",
        "tenant",
        "milliseconds",
    } <= found
