"""The gRPC edge: message → core → message. It decides nothing and must not know REST or SQL."""
