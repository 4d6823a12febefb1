"""`python -m tests.faults.failpoints` writes the table of all failpoints into the documentation."""

from pathlib import Path

from tests.faults.failpoints.table import with_table

PAGE = Path(__file__).parents[3] / "docs" / "failpoints.md"

if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
