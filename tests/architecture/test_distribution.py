"""The distribution `mediator-uow`: its name in all texts, its metadata, and conflicts with the foreign `mediator`."""

import base64
import email
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import pytest

import mediator
from tests.architecture.package import ROOT

pytestmark = pytest.mark.thorough("builds wheels and environments")

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

PACKAGE = {"mediator/__init__.py": "class Mediator: ...\n"}
MODULE = {"mediator.py": "class Mediator: ...\n"}
BROKEN = {"mediator/__init__.py": "print 'a program of the Python of 2017'\n"}

REQUIREMENTS = (
    re.compile(r"(?<![\w.-])mediator\["),
    re.compile(
        r"\b(?:pip3?|pipx|uv|poetry|pdm)\b(?: [\w-]+)* (?:install|add)\b[^\n`;&|]*?[\s\"'](?<![./])mediator(?![\w./-])",
        re.ASCII,
    ),
    re.compile(r"[\"']mediator ?(?:[<>=~!]=|[<>@])"),
    re.compile(r"^(?:Requires-Dist: *|name = \"?)mediator\b(?!-uow)", re.MULTILINE),
)


def files_of_the_repository() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode == 0:
        return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not any(part[0] == "." for part in path.parts[1:])]


def wrong_names(text: str) -> list[str]:
    return [found[0] for pattern in REQUIREMENTS for found in pattern.finditer(text)]


def test_no_text_requires_the_foreign_distribution_mediator():
    wrong = {
        path.relative_to(ROOT).as_posix(): names
        for path in files_of_the_repository()
        if path != Path(__file__)
        if (names := wrong_names(path.read_text("utf-8", "replace")))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "text",
    [
        "mediator[all]",
        "pip install mediator",
        'pip install "mediator"',
        "pip install --upgrade 'mediator>=0.1'",
        "python -m pip install -q mediator structlog",
        "pip3 install mediator==0.1.0",
        "uv pip install mediator",
        "uv add mediator",
        "poetry add mediator",
        'dependencies = ["mediator>=0.1"]',
        "'mediator @ file:///checkout'",
        "Requires-Dist: mediator",
        'name = "mediator"',
    ],
)
def test_every_way_to_require_the_foreign_distribution_is_found(text):
    assert wrong_names(text)


@pytest.mark.parametrize(
    "text",
    [
        "pip install mediator-uow",
        "pip install 'mediator-uow[all]'",
        'pip install ".[all]"',
        "pip install ./mediator",
        "pip install mediatorx",
        "pip uninstall mediator",
        "pip uninstall mediator. Then install this one",
        "await container.mediator()[0]",
        "import mediator",
    ],
)
def test_other_texts_are_not_mistaken_for_a_requirement(text):
    assert wrong_names(text) == []


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def extras_in(text: str) -> set[str]:
    return {extra for each in re.findall(r"(?:mediator-uow|\.)\[([\w,]+)\]", text) for extra in each.split(",")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_installs_from_the_checkout_because_nothing_is_published(page: Path):
    for command in re.findall(r"\bpip install ([^`&#\n]+)", page.read_text()):
        what = [each for each in shlex.split(command) if not each.startswith("-")]
        assert [each for each in what if not re.fullmatch(r"\.(\[[\w,]+\])?", each)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_existing_extras(page: Path):
    assert extras_in(page.read_text()) <= set(EXTRAS)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "NatsServer()" in page.read_text()], ids=lambda page: page.name
)
def test_a_page_that_starts_a_server_names_the_extra_that_contains_it(page: Path):
    assert "server" in extras_in(page.read_text())


def test_the_readme_names_every_extra_and_installs_the_server_for_the_command_that_needs_it():
    text = (ROOT / "README.md").read_text()
    assert [
        name for name in set(EXTRAS) - {"benchmarks"} if f"`{name}`" not in text and name not in extras_in(text)
    ] == []
    (command,) = (line for line in text.splitlines() if "examples.university" in line and "pip install" in line)
    assert extras_in(command) == {"all", "server"}


def test_the_command_of_the_readme_installs_this_distribution_from_a_checkout():
    command = re.search(r"pip install [^&\n]*(?P<what>\"\.\[all\]\")", (ROOT / "README.md").read_text())
    assert command is not None
    options = ["--dry-run", "--no-index", "--no-deps", "--no-build-isolation", "--force-reinstall"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, *shlex.split(command["what"])],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"Would install mediator-uow-{mediator.__version__}" in done.stdout
    assert "does not provide the extra" not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(opened.read(name))


def foreign_wheel(folder: Path, files: Mapping[str, str]) -> Path:
    """Build the wheel of the foreign distribution `mediator` 0.4.0 with these files."""
    metadata = "mediator-0.4.0.dist-info"
    written = files | {
        f"{metadata}/METADATA": "Metadata-Version: 2.1\nName: mediator\nVersion: 0.4.0\n",
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / "mediator-0.4.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as opened:
        for name, text in written.items():
            opened.writestr(name, text)
        hashes = {
            name: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            for name, text in written.items()
        }
        rows = [f"{name},sha256={hashes[name]},{len(text.encode())}\n" for name, text in written.items()]
        opened.writestr(f"{metadata}/RECORD", "".join(rows) + f"{metadata}/RECORD,,\n")
    return path


@dataclass(frozen=True)
class Environment:
    """A virtual environment that uses the dependencies of the environment of the tests."""

    folder: Path

    @property
    def packages(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    def pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python, *arguments]
        subprocess.run(command, cwd=self.folder, env=ENVIRONMENT, check=True, capture_output=True)

    def install(self, wheel: Path) -> None:
        self.pip("install", "--no-index", "--no-deps", "--no-compile", "--force-reinstall", str(wheel))

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run the interpreter, and return its exit status and its output."""
        command = [self.python, *arguments]
        done = subprocess.run(command, cwd=self.folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    def command(self, *arguments: str) -> tuple[int, str]:
        return self.run(str(self.folder / "bin" / "mediator"), *arguments)


def new_environment(folder: Path) -> Environment:
    venv.create(folder, with_pip=False)
    made = Environment(folder)
    (made.packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made


@pytest.fixture(scope="module")
def ours(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with this distribution, for tests that do not change it."""
    made = new_environment(tmp_path_factory.mktemp("ours") / "environment")
    made.install(wheel)
    return made


@pytest.fixture
def environment(ours: Environment, tmp_path: Path) -> Environment:
    """An environment with this distribution, for one test that changes it."""
    return Environment(Path(shutil.copytree(ours.folder, tmp_path / "environment", symlinks=True)))


def test_the_metadata_names_the_distribution_and_has_the_version_of_the_package(metadata: Message):
    assert (metadata["Name"], metadata["Version"]) == ("mediator-uow", mediator.__version__)
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_metadata_has_urls_and_none_is_a_registry(metadata: Message):
    addresses = [value.partition(", ")[2] for value in metadata.get_all("Project-URL")]
    assert addresses
    assert [each for each in addresses if not each.startswith("https://") or "pypi" in each] == []


def test_only_the_extras_server_and_dev_contain_a_server():
    assert [name for name, needed in EXTRAS.items() if any("nats-server" in each for each in needed)] == ["server"]
    including = {
        name for name, needed in EXTRAS.items() for each in needed if re.match(r"mediator-uow\[.*\bserver\b", each)
    }
    assert including == {"dev"}
    (everything,) = EXTRAS["all"]
    assert set(re.findall(r"[a-z]+", everything.partition("[")[2])) == set(EXTRAS) - {
        "all",
        "benchmarks",
        "dev",
        "server",
    }


def test_the_package_can_be_imported_and_run_without_the_foreign_distribution(ours: Environment):
    version = "import mediator, importlib.metadata as m; print(mediator.__version__ == m.version('mediator-uow'))"
    assert ours.run("-c", version) == (0, "True")
    status, text = ours.command("--help")
    assert (status, text.splitlines()[0]) == (0, "Usage: mediator [OPTIONS] COMMAND [ARGS]...")


REMEDY = r"The distribution mediator 0\.4\.0 in .* pip uninstall mediator\. .* --force-reinstall --no-deps mediator-uow"


@pytest.mark.parametrize("last", ["ours", "theirs"])
def test_the_foreign_package_in_the_same_folder_is_reported_for_both_orders_of_installation(
    environment: Environment, wheel: Path, tmp_path: Path, last: str
):
    environment.install(foreign_wheel(tmp_path, PACKAGE))
    if last == "ours":
        environment.install(wheel)
    for module in (
        ("mediator", "mediator.pipeline") if last == "ours" else ("mediator.pipeline", "mediator.nats.server")
    ):
        status, text = environment.run("-c", f"import {module}")
        assert status == 1
        assert re.search(REMEDY, text)
    status, text = environment.command("doctor", "app:create")
    assert status == 2
    assert re.fullmatch(REMEDY + ".*", text)


def test_the_foreign_module_next_to_the_package_is_reported(environment: Environment, tmp_path: Path):
    environment.install(foreign_wheel(tmp_path, MODULE))
    status, text = environment.run("-c", "import mediator")
    assert status == 1
    assert re.search(REMEDY, text)
    status, text = environment.command("doctor", "app:create")
    assert status == 2
    assert re.fullmatch(REMEDY + ".*", text)


def test_the_command_reports_a_foreign_package_that_cannot_be_imported(environment: Environment, tmp_path: Path):
    environment.install(foreign_wheel(tmp_path, BROKEN))
    status, text = environment.command("doctor", "app:create")
    assert status == 2
    assert re.fullmatch(
        r"The package imported as `mediator` is .*mediator/__init__\.py.*pip uninstall mediator\..*", text
    )


@pytest.mark.parametrize("files", [PACKAGE, MODULE], ids=["package", "module"])
def test_the_command_reports_a_foreign_package_ahead_of_a_checkout(
    environment: Environment, tmp_path: Path, files: Mapping[str, str]
):
    shutil.rmtree(environment.packages / "mediator")  # leaves the files of an editable install without its .pth file
    (environment.packages / "checkout.pth").write_text(f"{ROOT}\n")
    with zipfile.ZipFile(foreign_wheel(tmp_path, files)) as opened:
        opened.extractall(environment.packages)
    status, text = environment.command("doctor", "app:create")
    assert status == 2
    assert re.fullmatch(
        r"The package imported as `mediator` is .*site-packages/mediator.*pip uninstall mediator\..*", text
    )


def test_files_removed_with_the_foreign_package_are_reported_and_the_remedy_restores_them(
    environment: Environment, wheel: Path, tmp_path: Path
):
    environment.install(foreign_wheel(tmp_path, PACKAGE))
    environment.pip("uninstall", "--yes", "mediator")
    status, text = environment.command("doctor", "app:create")
    assert status == 2
    assert re.fullmatch(r"The distribution mediator in .* --force-reinstall --no-deps mediator-uow.*", text)
    assert environment.run("-c", "import mediator.pipeline")[0] == 1
    environment.install(wheel)
    assert environment.run("-c", "import mediator; print(mediator.Mediator.__name__)") == (0, "Mediator")


def seen_with(folder: Path) -> str:
    program = "import mediator; print(mediator.__version__)"
    paths = os.pathsep.join((str(ROOT), str(folder)))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=ENVIRONMENT | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout + done.stderr).strip().rpartition("\n")[2]


@pytest.mark.parametrize(
    ("name", "files", "version"),
    [
        ("mediator-0.4.0.dist-info", {"METADATA": "Name: mediator\n"}, " 0.4.0"),
        ("Mediator-1.0rc1.dist-info", {"RECORD": "mediator/__init__.py,,\n"}, " 1.0rc1"),
        ("mediator-0.4.0-py3.11.egg-info", {"top_level.txt": "mediator\n"}, " 0.4.0"),
        ("mediator-0.4.0-py3.11.egg-info", None, " 0.4.0"),
        ("mediator.egg-info", {"top_level.txt": "mediator\n"}, ""),
    ],
)
def test_the_foreign_package_is_recognized_in_every_form_of_installation(
    tmp_path: Path, name: str, files, version: str
):
    if files is None:
        (tmp_path / name).touch()
    for file, text in (files or {}).items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_text(text)
    assert f"The distribution mediator{version} in {tmp_path} is not mediator-uow" in seen_with(tmp_path)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mediator_uow-0.1.0.dist-info", {"RECORD": "mediator/__init__.py,,\n"}),
        ("mediatorx-1.0.1.dist-info", {"RECORD": "mediatorx/__init__.py,,\n"}),
        ("mediator_lite-0.1.0.dist-info", {}),
        ("mediator-0.1.0.dist-info", {"RECORD": "_editable_impl_mediator.pth,,\nmediator-0.1.0.dist-info/RECORD,,\n"}),
        ("mediator-0.1.0-py3.11.egg-info", {"top_level.txt": "mediation\nmediators\n"}),
    ],
)
def test_a_package_that_shares_no_file_with_the_library_is_ignored(tmp_path: Path, name: str, files: Mapping[str, str]):
    (tmp_path / name).mkdir()
    for file, text in files.items():
        (tmp_path / name / file).write_text(text)
    assert seen_with(tmp_path) == mediator.__version__


def test_an_entry_of_the_search_path_that_is_no_folder_is_ignored(tmp_path: Path):
    (tmp_path / "mediator-0.4.0.dist-info").touch()
    odd = [str(tmp_path / "mediator-0.4.0.dist-info"), str(tmp_path / "missing"), 10**6, None, "\udcff"]
    program = f"import sys; sys.path += [*{odd!r}, object()]; import mediator; print(mediator.__version__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (mediator.__version__, "")
