"""A small application whose code `tests/unit/test_describe.py` reads."""
