"""Fixtures of the interleavings. Their event loop needs Python 3.12, so that older versions do not collect these tests."""

import gc
import sys
from collections.abc import Iterator

import pytest

collect_ignore = [] if sys.version_info >= (3, 12) else ["test_interleavings.py"]


@pytest.fixture(autouse=True, scope="module")
def _frozen_modules() -> Iterator[None]:
    """Keep imported modules out of the collection of garbage with which each run ends: half of the time of a run."""
    gc.freeze()
    yield
    gc.unfreeze()
