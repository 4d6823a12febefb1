"""A small application whose code is read: see `tests/unit/test_describe.py`."""
