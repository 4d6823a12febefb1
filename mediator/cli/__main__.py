"""The `mediator` command as `python -m mediator.cli`."""

from mediator.cli import main

if __name__ == "__main__":
    main()
