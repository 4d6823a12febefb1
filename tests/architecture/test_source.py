"""Rules for every source file of the package."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.package import FILES, label, rule_for

FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "core", "types", "manager", "impl", "misc"}

Function = ast.FunctionDef | ast.AsyncFunctionDef

each_file = rule_for("file", FILES, label)


def nodes(file: Path) -> Iterator[ast.AST]:
    yield from ast.walk(ast.parse(file.read_text(), str(file)))


def located(found: list[ast.AST]) -> list[str]:
    """Return the line and the source of each node, for the message of a failure."""
    return [f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node).splitlines()[0]}" for node in found]


@each_file
def test_a_file_has_no_generic_name(file: Path):
    assert not {part.lower().strip("_") for part in label(file).removesuffix(".py").split("/")} & FORBIDDEN_NAMES


@each_file
def test_the_docstring_of_a_file_begins_with_a_sentence(file: Path):
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    assert docstring.partition("\n\n")[0].endswith((".", ":"))


@each_file
def test_imports_are_at_the_top_of_a_file(file: Path):
    functions = [node for node in nodes(file) if isinstance(node, Function)]
    inner = [node for function in functions for node in ast.walk(function)]
    assert located([node for node in inner if isinstance(node, ast.Import | ast.ImportFrom)]) == []


@each_file
def test_nothing_is_imported_for_type_checkers_only(file: Path):
    assert "TYPE_CHECKING" not in file.read_text()
    futures = [node for node in nodes(file) if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert located(list(futures)) == []


@each_file
def test_user_input_is_never_checked_by_assert(file: Path):
    if "conformance" in file.parts:
        return  # its cases are tests: pytest shows the compared values of an assertion
    assert located([node for node in nodes(file) if isinstance(node, ast.Assert)]) == []


@each_file
def test_context_managers_pass_on_every_error(file: Path):
    """The context managers of `contextlib` set attributes of errors; with a frozen error, that raises another error."""
    if "conformance" in file.parts:
        return  # its cases are tests that raise their own errors
    writing = {"contextmanager", "asynccontextmanager", "ExitStack", "AsyncExitStack"}
    imported = [
        alias.name
        for node in nodes(file)
        if isinstance(node, ast.ImportFrom) and node.module == "contextlib"
        for alias in node.names
    ]
    assert not writing & set(imported)
    assert located([node for node in nodes(file) if isinstance(node, ast.Attribute) and node.attr in writing]) == []


@each_file
def test_notes_are_added_only_by_the_function_that_tolerates_refusal(file: Path):
    if label(file) == "blocks.py":
        return
    calls = [node for node in nodes(file) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    assert (
        located([call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_note"]) == []
    )


@each_file
def test_nothing_is_unpickled_or_passed_to_a_shell(file: Path):
    imported = {
        name.split(".")[0]
        for node in nodes(file)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [*(alias.name for alias in node.names), getattr(node, "module", None) or ""]
    }
    checks_that_errors_cross = {"pickle"} if label(file) == "errors/root.py" else set()  # unpickles its own data
    assert not imported & {"pickle", "marshal", "shelve", "dill"} - checks_that_errors_cross
    calls = [node for node in nodes(file) if isinstance(node, ast.Call)]
    assert located([call for call in calls if any(keyword.arg == "shell" for keyword in call.keywords)]) == []
    assert (
        located([call for call in calls if isinstance(call.func, ast.Name) and call.func.id in {"eval", "exec"}]) == []
    )
