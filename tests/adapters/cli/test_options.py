"""Every option of every command refuses invalid values before anything is opened, and the error names the option."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from mediator.cli.commands import cli
from mediator.cli.options import Number
from tests.adapters.cli.samples.sample import IdleContainer

TARGET = f"{IdleContainer.__module__}:IdleContainer"
NEVER = "no_such_module:create"
"""A target whose import fails with another error, so that a refusal must come before the import."""

NUMBERS = ["nan", "-nan", "inf", "-inf", "-5", "-0.001", "1e400", "1e300", "x", "", " ", "True", "1_0x"]
COUNTS = ["-1", "1.5", "nan", "inf", "x", "", "True", "9223372036854775808", "1" + "0" * 30]
NAMES = ["", " ", "\x00", "a\nb", "\x1b[31m"]
TIMES = [
    "",
    "yesterday",
    "5x",
    "-5d",
    "99999999d",
    f"{'9' * 400}d",
    f"{'9' * 5000}d",
    "9" * 5000,
    "1969-01-01",
    "nan",
    "inf",
]
CHOICES = ["", "unknown", "HANDLER-FAILED!", "in,out"]
PACKAGES = ["", " ", "a b", "a..b", ".a", "a-b", "1a"]
BY_NAME = {
    "packages": PACKAGES,
    "since": TIMES,
    "monitoring": ["", "host:8222", "ftp://host", "http://", "http://host:x", "http://host:99999"],
}
FREE = {"target", "message", "others", "key", "because", "output", "data", "headers", "folder", "application"}
"""Options that accept any text or a file."""


def parameters(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Parameter]]:
    """Yield every parameter of a command and of its subcommands, with the words of the command."""
    for parameter in command.params:
        yield path, parameter
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from parameters(below, (*path, name))


def refused(parameter: click.Parameter) -> list[str]:
    """Return the values that a parameter must refuse."""
    kind = parameter.type
    if parameter.name in FREE or getattr(parameter, "is_flag", False):
        return []
    if parameter.name in BY_NAME:
        return BY_NAME[parameter.name]
    if isinstance(kind, click.IntRange):
        return COUNTS + ([] if kind.min == 0 else ["0"])
    return {Number: NUMBERS, click.Choice: CHOICES}.get(type(kind), NAMES)


CASES = [
    pytest.param(path, parameter, value, id=f"{' '.join(path)} {parameter.name}={value[:24]!r}")
    for path, parameter in parameters(cli)
    for value in refused(parameter)
]


def called(path, parameter, value, target=NEVER):
    """Return the arguments of a call that gives one parameter a value, and all required parameters a valid one."""
    command = cli
    for name in path:
        command = command.commands[name]
    arguments = []
    for each in command.params:
        if each is parameter:
            arguments += [each.opts[-1], value] if isinstance(each, click.Option) else ["--", value]
        elif each.required and isinstance(each, click.Option):
            arguments += [each.opts[-1], "some"]
    needed = [
        target if each.name == "target" else "1"
        for each in command.params
        if isinstance(each, click.Argument) and each.required and each is not parameter
    ]
    if isinstance(parameter, click.Argument):
        arguments = [*arguments[: arguments.index("--")], "--", *needed, value]
    else:
        arguments = [*arguments, *needed]
    return CliRunner().invoke(cli, [*path, *arguments])


@pytest.mark.parametrize(("path", "parameter", "value"), CASES)
def test_an_option_refuses_a_value_that_cannot_work(path, parameter, value):
    result = called(path, parameter, value)

    name = parameter.opts[-1] if isinstance(parameter, click.Option) else parameter.make_metavar(click.Context(cli))
    assert result.exit_code == 2, result.output
    assert name.strip("[]").rstrip(".").replace("...", "") in result.output
    assert "no_such_module" not in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", [["doctor"], ["topology", "plan"], ["topology", "diff"], ["topology", "apply"]])
def test_a_package_that_the_application_does_not_import_is_reported(command):
    result = CliRunner().invoke(cli, [*command, TARGET, "--package", "mispelt.events"])

    assert result.exit_code == 2
    assert "--package mispelt.events: the application does not import it." in result.output


def test_a_rate_of_zero_is_refused():
    result = CliRunner().invoke(cli, ["outbox", "republish", NEVER, "--all", "--rate", "0"])

    assert result.exit_code == 1
    assert "The setting rate=0.0 cannot work: use a positive number of events a second" in result.output


HOSTILE = [  # NUL cannot be passed to a process, and other paths would be outside of the folder of the test
    "",
    "\udcff",
    "\x1b[31m\n",
    "-",
    "--",
    "nan",
    "-1",
    "9" * 5000,
    "x" * 5000,
    ".",
    "nowhere/at/all",
    "/proc/none",
    "/dev/full",
    "/dev/null/x",
]


def of_a_container(path: tuple[str, ...]) -> str:
    return NEVER if path == ("run",) else TARGET  # the command would run until it is stopped


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        pytest.param(path, parameter, id=f"{' '.join(path)} {parameter.name}")
        for path, parameter in parameters(cli)
        if not getattr(parameter, "is_flag", False) and path
    ],
)
def test_no_value_of_any_option_ends_in_a_traceback(path, parameter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in HOSTILE:
        result = called(path, parameter, value, target=of_a_container(path))
        assert result.exit_code in {0, 1, 2}, (value, result.output)
        assert result.exception is None or isinstance(result.exception, SystemExit), (value, result.exc_info)
        assert "Traceback" not in result.output
