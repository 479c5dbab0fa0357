"""The back end of an edge: reads and changes of jobs, from a JobStatus service over gRPC instead of from a store."""
