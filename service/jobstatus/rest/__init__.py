"""The REST interface on aiohttp: request → principal → core → bytes. It must not know gRPC or SQL."""
