"""What a job is and what may happen to it.

Pure rules (`rules`), the use cases (`tracker`), the store port (`store`) and the errors. Imports the standard library
only: it must not know HTTP, gRPC, SQL or who is calling.
"""
