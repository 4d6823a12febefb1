"""Doctor: `mediator doctor` finds faults of an application in operation, and says what to do about each.

Each check is an object in a list, and its class is in the file of its subject. All checks look at the same
installation, that is, the opened parts of the container. They change nothing.
"""
