from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs


@pytest.fixture(autouse=True, scope="package")
def quiet() -> Iterator[None]:
    """Log no tracebacks: these tests cause many failures, and formatting their tracebacks takes most of the time."""
    with capture_logs():
        yield
