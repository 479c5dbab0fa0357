"""JobStatus: the status of asynchronous inference jobs, written over gRPC and polled over REST."""

__version__ = "0.1.0"
