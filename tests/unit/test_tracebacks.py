"""An error in an application's module is reported with its own place, not with the place of the import."""

import importlib
import json

import pytest

from mediator.printable import message_of, place_of


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """Import a module with this source, and return its error and the path of the module."""
    monkeypatch.syspath_prepend(tmp_path)

    def import_it(source, name="somebodys_module"):
        (tmp_path / f"{name}.py").write_bytes(source if isinstance(source, bytes) else source.encode())
        with pytest.raises(BaseException) as caught:
            importlib.import_module(name)
        return caught.value, str(tmp_path / f"{name}.py")

    return import_it


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        ("x = 1\ny = (\n", 2, "'(' was never closed"),
        ("def f():\nx = 1\n", 2, "expected an indented block after function definition on line 1"),
        ("import os\n\nos.environ['NOT_SET_ANYWHERE']\n", 3, "'NOT_SET_ANYWHERE'"),
        ("import json\n\n\njson.loads('{')\n", 4, None),
        ("from mediator import MessageContext\nMessageContext('', '')\n", 2, None),
        ("from dependency_injector import providers\nproviders.Singleton(int, 'x')()\n", 2, None),
        ("import no_such_module_anywhere\n", 1, "No module named 'no_such_module_anywhere'"),
        ("from json import no_such_name\n", 1, None),
        ("\n\nraise SystemExit(3)\n", 3, "3"),
        ("exec('x = (')\n", 1, "'(' was never closed"),
        (b"x = 1\ny = '\xff'\n", None, None),
    ],
    ids=["syntax", "indentation", "setting", "standard library", "this library", "provider", "import", "name", "exit",
         "code made of text", "encoding"],
)  # fmt: skip
def test_an_error_is_located_in_the_module_that_raised_it(imported, source, line, message):
    error, path = imported(source, f"somebodys_module_{abs(hash(str(source)))}")

    assert place_of(error)[0] == path
    assert line in (None, place_of(error)[1])
    assert message is None or message_of(error) == message


def test_a_syntax_error_is_located_in_the_imported_module_that_contains_it(imported, tmp_path):
    (tmp_path / "inner_of_somebody.py").write_text("\n\nclass\n")
    error, _ = imported("import inner_of_somebody\n", "outer_of_somebody")

    assert place_of(error) == (str(tmp_path / "inner_of_somebody.py"), 3)


def test_an_error_that_no_python_code_raised_has_no_location():
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")

    assert place_of(ValueError("never raised")) is None
    assert place_of(caught.value)[0] == __file__
