"""The issuers that a running process accepts, which a reload may replace.

Replacing has two steps: `prepare` reads and checks everything and may fail; `use` cannot. Keys that were fetched stay
where their provider is the same, so that a reload asks nobody for them.
"""

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, Self

from jobstatus.app.background import run_periodically
from jobstatus.app.clocks import Clocks
from jobstatus.app.key_fetching import fetch
from jobstatus.auth.authenticator import Authenticator
from jobstatus.auth.issuer_config import IssuerConfig
from jobstatus.auth.issuers import TokenVerifier
from jobstatus.auth.remote_keys import JwksLimits, RemoteKeys
from jobstatus.settings import IssuerSettings
from jobstatus.telemetry.metrics import Metrics

_FETCH_CHECK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedIssuers:
    """Issuers whose keys are loaded and checked. `remote` has the keys that are fetched."""

    configs: tuple[IssuerConfig, ...]
    remote: tuple[tuple[IssuerConfig, RemoteKeys], ...]
    verifier: TokenVerifier | None


_NONE: Final = PreparedIssuers(configs=(), remote=(), verifier=None)


class AcceptedIssuers:
    """The issuers in use. Enter it to have their keys fetched, each issuer's in a task of its own."""

    def __init__(self, limits: JwksLimits, clocks: Clocks, metrics: Metrics) -> None:
        self._limits = limits
        self._clocks = clocks
        self._metrics = metrics
        self._stack = AsyncExitStack()
        self._fetching: dict[RemoteKeys, asyncio.Task[Any]] = {}
        self._retired: list[RemoteKeys] = []
        """Keys of issuers that were removed during a fetch, for which somebody may be waiting."""
        self._in_use = _NONE

    def prepare(self, issuers: Iterable[IssuerSettings]) -> PreparedIssuers:
        """Return these issuers, ready to be used. Blocks. Raise KeyConfigError when a key is unusable."""
        configs = tuple(issuer.config() for issuer in issuers)
        remote = tuple((config, self._keys_for(config)) for config in configs if config.is_remote)
        local = [config for config in configs if not config.is_remote]
        verifier = TokenVerifier(local, [keys for _, keys in remote]) if configs else None
        return PreparedIssuers(configs=configs, remote=remote, verifier=verifier)

    def use(self, prepared: PreparedIssuers, authenticator: Authenticator) -> None:
        """Accept these issuers from now on, and only these. Does nothing where they are those in use."""
        if prepared.configs == self._in_use.configs:
            return  # changed key files are found by the authenticator, which keeps the tokens of the others
        for config, keys in prepared.remote:
            keys.config = config
        self._in_use = prepared
        authenticator.replace_verifier(prepared.verifier)
        self._start_and_stop()

    async def __aenter__(self) -> Self:
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._start_and_stop()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._fetching.values():
            task.cancel()
        await self._stack.aclose()
        await asyncio.gather(*(keys.close() for keys in (*self._fetching, *self._retired)))

    def begin_with(self, prepared: PreparedIssuers) -> TokenVerifier | None:
        """Set the issuers before anything is accepted, and return their verifier."""
        self._in_use = prepared
        return prepared.verifier

    def _keys_for(self, config: IssuerConfig) -> RemoteKeys:
        """Return the keys in use of the same provider, else ones that have yet to be fetched."""
        for keys in self._fetching:
            if _provider(keys.config) == _provider(config):
                return keys
        clocks = self._clocks
        return RemoteKeys(config, fetch, clock=clocks.seconds, monotonic=clocks.monotonic, limits=self._limits)

    def _start_and_stop(self) -> None:
        """Fetch for the issuers in use, and for no others. A fetch under way goes on for those who wait for it."""
        wanted = {keys for _, keys in self._in_use.remote}
        self._retired = [keys for keys in self._retired if keys.is_fetching]
        for keys in self._fetching.keys() - wanted:
            self._fetching.pop(keys).cancel()
            self._retired.append(keys)
        for keys in wanted - self._fetching.keys():
            work = run_periodically(_FETCH_CHECK_SECONDS, "fetch_keys", keys.refresh, self._metrics)
            self._fetching[keys] = self._tasks.create_task(work)


def _provider(config: IssuerConfig) -> tuple[object, ...]:
    """Return what decides which keys are fetched, and from where."""
    return config.issuer, config.algorithm, config.jwks_url, config.discovery
