"""The pytest plugin in a separate project."""

import pytest

pytest_plugins = ["pytester"]


@pytest.mark.thorough("waits in real time, or does much work")
def test_conformance_suites_show_compared_values_even_if_a_conftest_imports_them(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from mediator.testing.conformance import StorageConformance")
    pytester.makepyfile(
        test_loader="""
        from mediator.testing.conformance import storage

        def test_it_is_rewritten():
            assert type(storage.__loader__).__name__ == "AssertionRewritingHook"
        """
    )
    ran = pytester.runpytest_subprocess("-W", "error::pytest.PytestAssertRewriteWarning", "test_loader.py")
    ran.assert_outcomes(passed=1)
