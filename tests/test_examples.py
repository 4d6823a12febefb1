"""Every example runs: the Python blocks of README.md and docs/, the scripts of examples/, and the university."""

import ast
import asyncio
import contextlib
import inspect
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import psutil
import pytest
import structlog

from mediator.dependency_injector import lifespan
from mediator.nats import NatsServer, open_connection, open_doorbell
from mediator.sqlalchemy.engine import database_of

ROOT = Path(__file__).parents[1]
FRAGMENTS = {"errors.md"}  # shows single statements, whose context is on other pages
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def blocks(page):
    """Return the fenced blocks of a page: language, text, and the line on which the text begins."""
    source = page.read_text("utf-8")
    return [(m[1], m[2], source.count("\n", 0, m.start(2))) for m in BLOCK.finditer(source)]


def compiled(page, text, line):
    """Compile a block so that `await` is allowed at the top level and tracebacks show lines of the page."""
    text = text.replace('if __name__ == "__main__":', "if True:")
    return compile("\n" * line + text, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def run_page(page, runner, capsys, monkeypatch):
    """Run the blocks of a page, compare their output with the documented output, and return the defined names."""
    module = types.ModuleType(f"page_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for language, text, line in blocks(page):
        if language == "python":
            capsys.readouterr()
            running = eval(compiled(page, text, line), vars(module))
            if inspect.iscoroutine(running):
                runner.run(running)
        elif language == "text":  # the output of the block before it
            assert capsys.readouterr().out == text
    return vars(module)


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quiet():
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # pages show their output
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in FRAGMENTS], ids=lambda page: page.name)
def test_the_python_blocks_of_a_page_run_and_print_the_documented_output(page, tmp_path, monkeypatch, capsys, quiet):
    monkeypatch.chdir(tmp_path)
    with asyncio.Runner() as runner:
        run_page(page, runner, capsys, monkeypatch)


async def the_handlers_of_the_bank_use_the_mediator_that_reads(names):
    async with lifespan(names["ReadingContainer"](), relay_elsewhere=True) as bank:
        assert await bank.mediator().send(names["Transfer"]("ada", "bob", 1)) == "2 events"
        assert bank.transfer()._mediator is bank.mediator()


async def commands_of_the_bank_ring_the_doorbell(names):
    async with (
        NatsServer() as server,
        open_connection(server.url) as connection,
        contextlib.AsyncExitStack() as stack,
        asyncio.timeout(20),
    ):
        container, heard = names["WithDoorbell"](), asyncio.Event()
        container.nats.set_args(server.url)
        async with open_doorbell(connection, "bank") as elsewhere:
            elsewhere.on_ring(heard.set)
            await heard.wait()  # the doorbell itself reports when it can be heard
            heard.clear()
            bank = await stack.enter_async_context(lifespan(container, relay_elsewhere=True))
            while not heard.is_set():
                await bank.mediator().send(names["RemindLater"]("A-1"))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(heard.wait(), 0.2)


async def the_consumer_of_the_audit_has_a_group_of_its_own(names):
    async with lifespan(names["AuditContainer"](config={"nats_url": "nats://127.0.0.1:1"})) as audit:
        assert audit.consumer().group == "audit"
        assert audit.consumer()._subscription is audit.subscription()


async def all_parts_use_the_pooled_engine(names):
    container = names["PooledContainer"](config={"database": {"url": "sqlite:///pooled.db"}})
    container.engine.set_kwargs(pool_size=3)  # the arguments are for PostgreSQL
    async with lifespan(container):
        engine = container.engine()
        assert engine.pool.size() == 3
        assert container.outbox()._database is container.inbox()._database is database_of(engine)


SAMPLES = {
    "unit-of-work.md": the_handlers_of_the_bank_use_the_mediator_that_reads,
    "outbox.md": commands_of_the_bank_ring_the_doorbell,
    "distributed-events.md": the_consumer_of_the_audit_has_a_group_of_its_own,
    "databases.md": all_parts_use_the_pooled_engine,
}


@pytest.mark.parametrize(("name", "does"), SAMPLES.items(), ids=SAMPLES)
@pytest.mark.usefixtures("quiet", "in_a_folder")
def test_a_derived_container_of_a_page_behaves_as_documented(name, does, monkeypatch, capsys):
    with asyncio.Runner() as runner:
        names = run_page(ROOT / "docs" / name, runner, capsys, monkeypatch)
        runner.run(does(names))


def test_the_tests_on_the_page_about_testing_pass(tmp_path):
    source = "\n".join(text for language, text, _ in blocks(ROOT / "docs/testing.md") if language == "python")
    (tmp_path / "test_page.py").write_text(source, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--override-ini", "asyncio_mode=auto", "test_page.py"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert f"{len(re.findall('def test_', source))} passed" in done.stdout, done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_blocks_of_a_page_can_be_compiled(page):
    for language, text, line in blocks(page):
        if language == "python":
            compiled(page, text, line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_have_existing_targets(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("heading", ["Run it", "Test it"])
def test_the_readme_has_exactly_one_command_line_under_a_heading(heading):
    section = (ROOT / "README.md").read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (block,) = BLOCK.findall(section)
    language, text = block

    assert language == "sh"
    assert text.count("\n") == 1
    assert not re.search(r"^\s*[$#>]|\\$", text)


@pytest.mark.thorough("starts the processes of an example")
@pytest.mark.parametrize("name", ["quickstart", "script"])
def test_a_script_prints_the_documented_output(name):
    source = (ROOT / "examples" / f"{name}.py").read_text("utf-8")
    stated = ast.get_docstring(ast.parse(source)).partition("\n\n")[2]
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{name}"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == stated + "\n"


@pytest.mark.thorough("starts the processes of an example")
def test_the_diagram_in_the_readme_is_the_output_of_describe_for_both_applications():
    (picture,) = (text for language, text, _ in blocks(ROOT / "README.md") if language == "mermaid")
    module = "examples.university.{}.container:{}Container".format
    others = ["--with", module("advising", "Advising"), "--format", "mermaid"]
    done = subprocess.run(
        [sys.executable, "-m", "mediator.cli", "describe", module("enrollment", "Enrollment"), *others],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == picture


def university(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "examples.university", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.thorough("starts the processes of an example")
@pytest.mark.parametrize("options", [(), ("--kill",), ("--restart-broker",)], ids=["calm", "kill", "restart-broker"])
def test_the_numbers_of_the_university_example_add_up(options):
    process = university("--commands", "40", *options)
    output, errors = process.communicate(timeout=90)
    table = {name: int(figure) for name, figure in re.findall(r"^ +(\w[\w ]*?) +(\d+) *$", output, re.MULTILINE)}

    assert (process.returncode, errors) == (0, ""), output
    assert table == {
        "commands sent": 40,
        "committed": 35,
        "rolled back": 5,
        "events staged": 70,
        "events in the stream": 70,
        "effects in advising": 70,
        "duplicates": 0,
    }
    assert output.count("is killed and started again") == {(): 0, ("--kill",): 2, ("--restart-broker",): 1}[options]


def children(process):
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.thorough("starts the processes of an example")
def test_the_university_example_stops_all_processes_on_ctrl_c():
    process = university("--commands", "5000")
    process.stdout.readline()
    started = children(process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)

    assert (process.returncode, errors) == (130, "")
    assert "Interrupted" in output
    assert len(started) == 3  # nats-server and two applications
    assert not [child for child in started if child.is_running()]


@pytest.mark.thorough("starts the processes of an example")
def test_the_university_example_fails_and_shows_the_log_when_an_application_dies():
    process = university("--commands", "5000")
    process.stdout.readline()
    started = children(process)
    (advising,) = (child for child in started if "mediator.cli" in child.cmdline())
    advising.kill()
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "advising ended with status -9. The end of its log:" in errors
    assert not [child for child in started if child.is_running()]


@pytest.mark.thorough("starts the processes of an example")
@pytest.mark.parametrize("seconds", ["0.05", "1.5"], ids=["before anything has begun", "in the middle"])
def test_the_university_example_reports_numbers_that_do_not_add_up(seconds, tmp_path):
    process = university("--commands", "5000", "--timeout", seconds, "--keep", str(tmp_path))
    output, errors = process.communicate(timeout=60)

    assert (process.returncode, errors) == (1, ""), output
    assert "WRONG: of 5000 commands" in output
    assert f"WRONG: not everything had happened after {seconds} s" in output
    assert len(list(tmp_path.glob("run-*/enrollment.log"))) == 1
