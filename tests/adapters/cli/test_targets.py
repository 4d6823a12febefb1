"""The command line accepts containers, container classes and factories, and explains other targets."""

from pathlib import Path

import pytest
from click.testing import CliRunner

import mediator
from mediator.cli.commands import cli
from mediator.cli.container import load_container
from mediator.cli.work import CommandError
from mediator.printable import printable
from tests.adapters.cli.samples.sample import IdleContainer, idle

SAMPLE = "tests.adapters.cli.samples.sample"


def problem(target):
    with pytest.raises(CommandError) as caught:
        load_container(target)
    assert caught.value.status == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_version_is_shown() -> None:
    shown = CliRunner().invoke(cli, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"mediator {mediator.__version__}\n")


def test_a_container_a_class_and_a_factory_are_accepted(monkeypatch):
    monkeypatch.setenv("SAMPLE_DATABASE", "sqlite:///unused.db")

    assert load_container(f"{SAMPLE}:idle") is idle
    assert load_container(f"{SAMPLE}:create").config.database() == "sqlite:///unused.db"
    assert load_container(f"{SAMPLE}:IdleContainer").providers.keys() == IdleContainer.providers.keys()


@pytest.mark.parametrize("target", ["nothing", ":create", "module:", ""])
def test_a_target_without_module_or_name_is_explained(target):
    assert "is not module:name" in problem(target)


def test_the_error_for_a_missing_module_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_application.py").write_text("import no_such_dependency\n")

    assert "The module 'no_such_module' was not found" in problem("no_such_module.container:create")
    assert "broken_application.py:1" in problem("broken_application:create")
    assert "no_such_dependency" in problem("broken_application:create")


def test_the_error_for_a_failing_import_shows_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("failing_application.py").write_text("x = 1\nraise RuntimeError('not today')\n")

    assert "failing_application.py:2: RuntimeError: not today" in problem("failing_application:x")


def test_the_error_for_a_name_whose_lookup_fails_shows_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lazy_application.py").write_text("def __getattr__(name):\n    raise RuntimeError('not today')\n")

    text = problem("lazy_application:create")
    assert text.startswith("Getting 'lazy_application:create' failed at ")
    assert "lazy_application.py:2: RuntimeError: not today" in text


def test_a_deleted_working_directory_is_reported(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert "current directory cannot be read" in problem(f"{SAMPLE}:create")


def test_the_error_for_a_missing_name_suggests_the_nearest_one():
    assert "Did you mean create" in problem(f"{SAMPLE}:creat")
    assert "IdleContainer" in problem(f"{SAMPLE}:idlecontainer")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("with_arguments", "needs arguments (settings)"),
        ("asynchronous", "is async"),
        ("returns_a_list", "is of type list"),
        ("ShipOrder", "is the class ShipOrder"),
        ("os", "is of type module"),
        ("failing", "ValueError: no"),
    ],
)
def test_an_object_that_is_not_a_container_is_refused_with_the_reason(name, text):
    assert text in problem(f"{SAMPLE}:{name}")


@pytest.mark.parametrize("command", ["run", "describe", "schema create"])
def test_a_bad_target_is_one_sentence_on_standard_error_and_status_2(command):
    result = CliRunner().invoke(cli, [*command.split(), f"{SAMPLE}:failing"])

    assert result.exit_code == 2
    assert result.stdout == ""
    assert "\x1b" not in result.stderr
    assert "no\\x1b[2J settings" in result.stderr


def test_control_characters_of_foreign_text_are_escaped():
    assert printable("a\x1b[31m\r\tb\u202e\udc80é\n") == "a\\x1b[31m\\r\\tb\\u202e\\udc80é\n"


@pytest.mark.parametrize("file", ["enrollment.py", "./enrollment.py", "enrollment"])
def test_the_error_for_a_file_name_suggests_the_module_name(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if file == "enrollment":
        assert "was not found" in problem(f"{file}:create")
    else:
        assert problem(f"{file}:create") == f"{file!r} is a file; name the module: enrollment:create."


def test_a_missing_setting_is_one_sentence_with_the_remedy():
    result = CliRunner().invoke(cli, ["run", f"{SAMPLE}:Container"])
    assert result.exit_code == 2
    assert 'Undefined configuration option "config.database"' in result.stderr
    assert "a function that makes the container with its settings" in result.stderr
    assert "Traceback" not in result.output
