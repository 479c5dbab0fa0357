"""What the service is compared with, each in a process of its own that prints its port and serves until it is ended."""
