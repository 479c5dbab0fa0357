"""The back end of an edge: it reads jobs, and learns of changes, from a JobStatus service instead of from a store."""
