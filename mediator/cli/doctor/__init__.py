"""Doctor: `mediator doctor` finds faults of an application in operation, and says what to do about each.

The checks are objects in a list. The class of a check is in the file about the subject of the check. All checks look at
the same installation, that is, the opened parts of the container. The checks change nothing.
"""
