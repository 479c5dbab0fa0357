"""A credential in, a principal out.

`authenticator` is the front door, `issuers` knows whose tokens count, `minting` makes some. Knows neither aiohttp nor
grpc nor the settings: headers come in as strings, keys as configuration values.
"""
