"""Seeded interleavings: whole applications in one event loop, under a scheduler that a seed drives, in virtual time.

`python -m tests.interleavings` runs the scenarios of `scenarios.py`. Each seed gives one order of all tasks, and one plan
of faults. The databases and the broker are the in-memory adapters of `mediator.testing`, behind a simulated network.

The library `simloop` gives the event loop, and needs Python 3.12.
"""
