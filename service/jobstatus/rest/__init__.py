"""The thin aiohttp edge: request → principal → core → bytes. It must not know gRPC or SQL."""
