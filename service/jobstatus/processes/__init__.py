"""How serving processes start, live and end: one alone, or several under a supervisor.

Importing this package never loads gRPC, because a supervisor starts processes and serves nobody. Only `process` does,
when it begins to serve.
"""
