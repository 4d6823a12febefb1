from tests.end_to_end.conftest import databases

__all__ = ["databases"]
