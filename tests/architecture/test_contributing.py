"""The pages for contributors name existing files, and the quick checks equal the static checks of the whole run."""

import re
from pathlib import Path

import pytest

from tests.architecture.package import ROOT

GUIDE = ROOT / "CONTRIBUTING.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
TABLE_ROW = re.compile(r"^\| `(?P<path>[\w./-]+)` \| (?P<names>`[^|]+) \|", re.MULTILINE)
NAMED = re.compile(r"(?<![\w/.-])(?:mediator|tests|docs|examples|\.ci)/[\w./<>-]*|`([\w.-]+\.(?:md|py|toml|yaml))`")


def paths_in(page: Path) -> set[str]:
    """Return the files and folders that a page names. A path with a part in angle brackets is cut before that part."""
    found = {match[1] or match[0].rstrip(".") for match in NAMED.finditer(page.read_text("utf-8"))}
    return {path if "<" not in path else path[: path.index("<")].rpartition("/")[0] for path in found}


def is_there(path: str) -> bool:
    """Return whether a file or folder exists. A name without a folder may be any file of the package."""
    return (ROOT / path).exists() or ("/" not in path and any((ROOT / "mediator").rglob(path)))


@pytest.mark.parametrize("page", [GUIDE, ARCHITECTURE], ids=lambda page: page.name)
def test_every_file_that_a_page_for_contributors_names_exists(page: Path):
    paths = paths_in(page)
    assert len(paths) > 20
    assert sorted(path for path in paths if not is_there(path)) == []


def test_every_name_listed_with_a_file_occurs_in_that_file():
    rows = [
        (row["path"], re.findall(r"`([\w.]+)`", row["names"])) for row in TABLE_ROW.finditer(ARCHITECTURE.read_text())
    ]
    missing = [
        (path, name)
        for path, names in rows
        for name in names
        if not (ROOT / path).is_file() or not re.search(rf"\b{re.escape(name)}\b", (ROOT / path).read_text())
    ]
    assert len(rows) > 30
    assert missing == []


def test_every_page_of_the_documentation_is_in_its_index():
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert (
        set(re.findall(r"^\| \[[^\]]+\]\(([\w-]+\.md)\)", (ROOT / "docs/index.md").read_text(), re.MULTILINE)) == pages
    )


def test_the_quick_checks_equal_the_static_checks_of_the_whole_run():
    hooks = set(re.findall(r"^ +entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE))
    steps = set(
        re.findall(r"^(\.venv/bin/(?:ruff|mypy|pyright|lint-imports).*)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    )
    assert steps
    assert {hook for hook in hooks if " pytest " not in hook} == steps
