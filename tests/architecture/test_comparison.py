"""The comparison page: each feature of this library links to a test, and missing features are marked."""

import ast
import re

from tests.architecture.package import ROOT

PAGE = ROOT / "docs" / "comparison.md"
ROWS = [
    [cell.strip() for cell in line.strip("|\n ").split("|")]
    for line in PAGE.read_text("utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("|  |")
]
LINK = re.compile(r"\[([^\]]+)\]\(([^)#]+)#(\w+)\)")


def names_in(path: str) -> set[str]:
    tree = ast.parse((PAGE.parent / path).read_text("utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions) and node.name.startswith("test_")}


def test_every_row_has_a_cell_for_every_library():
    assert len(ROWS) > 60
    assert {len(row) for row in ROWS} == {8}
    assert all(cell for row in ROWS for cell in row)


def test_every_feature_of_ours_links_to_an_existing_test():
    for feature, *_, ours in ROWS:
        links = LINK.findall(ours)
        assert bool(links) == ("yes" in ours), feature
        for _, path, name in links:
            assert name in names_in(path), (feature, name)


def test_a_missing_feature_of_ours_is_marked_with_a_dash():
    missing = [feature for feature, *_, ours in ROWS if not LINK.match(ours)]
    assert all(ours.startswith("\N{EN DASH}") for feature, *_, ours in ROWS if feature in missing)
    assert len(missing) < 6
