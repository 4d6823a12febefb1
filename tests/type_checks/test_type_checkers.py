"""mypy and pyright report errors on exactly the marked lines of the cases."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CASES = sorted((HERE / "cases").glob("*.py"))
BIN = Path(sys.executable).parent

Lines = set[tuple[str, int]]


def marked() -> Lines:
    """Return the lines with the comment `# error`."""
    return {
        (case.name, number)
        for case in CASES
        for number, line in enumerate(case.read_text().splitlines(), 1)
        if line.endswith("  # error")
    }


def run(command: Iterable[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MYPYPATH": f"{ROOT}{os.pathsep}{HERE}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def mypy_errors(folder: Path) -> Lines:
    options = ["--strict", "--config-file=", "--explicit-package-bases", f"--cache-dir={folder}"]
    done = run([sys.executable, "-m", "mypy", *options, "--no-error-summary", *map(str, CASES)], folder)
    found = re.findall(r"^(.*?):(\d+): error: ", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return {(Path(name).name, int(line)) for name, line in found}


def pyright_errors(folder: Path) -> Lines:
    shutil.copytree(HERE / "cases", folder / "cases")  # pyright takes no folder outside of its project
    settings = {"include": ["cases"], "extraPaths": [str(ROOT)], "typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    done = run([str(BIN / "pyright"), "--outputjson", "--pythonpath", sys.executable, "--project", "."], folder)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] >= len(CASES)
    errors = [item for item in report["generalDiagnostics"] if item["severity"] != "information"]
    return {(Path(item["file"]).name, item["range"]["start"]["line"] + 1) for item in errors}


@pytest.mark.parametrize("errors", [mypy_errors, pyright_errors])
def test_a_type_checker_reports_exactly_the_marked_lines(errors, tmp_path: Path):
    assert sorted(errors(tmp_path)) == sorted(marked())


def test_the_cases_have_marked_lines():
    assert len(marked()) > 15
