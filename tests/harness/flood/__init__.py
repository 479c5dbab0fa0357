"""Loads that no service wants, in a process of their own: `python -m harness.flood`.

It is cheap enough to keep a service busy from half of a core, and lets everybody else on the machine go first. For each
plan that it reads from its standard input it prepares a load (connections, calls that wait), says that it is ready,
waits for a line, makes the load for its time, and says how often it did what it does, and how that was answered.
"""
