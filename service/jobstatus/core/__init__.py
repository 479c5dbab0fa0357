"""The domain: jobs, the rules of their life, the use cases and the store port.

`rules` are pure functions, `tracker` has the use cases, `store` is the port, `errors` are what callers handle. It
imports only the standard library: it must not know HTTP, gRPC, SQL or its callers.
"""
