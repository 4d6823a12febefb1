"""The command `mediator`. If the package `mediator` belongs to another distribution, the command reports this.

This module is installed outside the package, as `mediator_uow`. So the command starts even if the package was replaced.
"""

import importlib
import importlib.util
import sys

_OURS = "mediator.errors.root"  # every module of this package imports this module first


def main() -> None:
    """Run the command. If another package is imported as `mediator`, print its path and exit with status 2."""
    try:
        command = importlib.import_module("mediator.cli")
    except Exception as error:
        text = _text_of(error)
        if not text:
            raise
        print(text, file=sys.stderr)
        sys.exit(2)
    command.main()


def _text_of(error: Exception) -> str:
    """Return the text for an error caused by another package named `mediator`; empty for every other error."""
    if type(error).__name__ == "ForeignDistributionError":
        return str(error)
    spec = importlib.util.find_spec("mediator")
    if spec is None or _OURS in sys.modules:
        return ""
    return (
        f"The package imported as `mediator` is not mediator-uow: {spec.origin}. An environment can hold only one of them. "
        "Uninstall mediator: pip uninstall mediator. Then install mediator-uow again, because some of its files may be "
        "gone: pip install --force-reinstall --no-deps mediator-uow, or the path of its source in place of the name."
    )
