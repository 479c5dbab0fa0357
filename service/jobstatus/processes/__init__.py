"""Start, run and stop serving processes: one alone, or several children under a supervisor.

Importing this package never loads gRPC, because a supervisor serves no calls. Only `process` loads it, when it begins
to serve.
"""
