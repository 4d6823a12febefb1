"""Doctor: `mediator doctor` finds what is wrong with an installation in operation, and says what to do about it.

Each check is an object in a list, and lives in the file of its subject. The checks share an installation, which is
opened once, and change nothing.
"""
