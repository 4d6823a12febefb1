"""Runs the `mediator` command when Python is called with `-m mediator.cli`."""

from mediator.cli import main

if __name__ == "__main__":
    main()
