"""Doctor: `mediator doctor` finds faults of an application in operation, and says what to do about each fault.

The list of the checks is in `command.py`. The class of each check is in the file about its subject, such as `streams.py`.
All checks look at the same installation, that is, the opened parts of the container. The checks change nothing.
"""
