"""The gRPC API: from messages to the core and back. It decides nothing and must not know REST or SQL."""
