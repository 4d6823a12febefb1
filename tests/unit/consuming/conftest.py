from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs


@pytest.fixture(autouse=True, scope="package")
def quiet() -> Iterator[None]:
    """Failures are what these tests are about, and drawing their tracebacks takes longer than all the rest."""
    with capture_logs():
        yield
