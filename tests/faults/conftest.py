from tests.end_to_end.conftest import databases, server

__all__ = ["databases", "server"]
