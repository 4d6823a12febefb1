"""A small application whose code `tests/unit/describe/test_description.py` reads."""
