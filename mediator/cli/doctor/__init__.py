"""Doctor: what is wrong with a set-up in operation, and what to do about it; `mediator doctor`.

Each check is an object in a list, told of in the file of its subject. It looks at an installation, which is opened once,
and changes nothing.
"""
