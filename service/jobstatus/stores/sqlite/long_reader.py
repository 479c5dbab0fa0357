"""Reads that may be long, on a thread and a connection of their own, so that they delay neither polls nor writes."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw

from jobstatus.core.errors import StoreUnavailable
from jobstatus.stores import StoreConfigError
from jobstatus.stores.sqlite import schema

T = TypeVar("T")

_FAULTS: Final = (apsw.Error, OSError, StoreConfigError)


class LongReader:
    """Reads one after the other. The connection is opened when it is needed, and again after a fault."""

    def __init__(self, path: Path, name: str, check_file: Callable[[], None]) -> None:
        """`check_file` raises StoreConfigError or OSError where the path must not be opened now."""
        self._path = path
        self._check_file = check_file
        self._thread = ThreadPoolExecutor(1, name)
        self._connection: apsw.Connection | None = None

    async def fetch(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows that the statement finds. Raise StoreUnavailable for a fault."""
        return await self._in_thread(lambda: self._fetch(statement, values))

    async def close(self) -> None:
        """Close the connection and end the thread."""
        await self._in_thread(self._close)
        self.stop_thread()

    def stop_thread(self) -> None:
        """End the thread of a reader that has read nothing."""
        self._thread.shutdown()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _fetch(self, statement: str, values: Sequence[Any]) -> list[Any]:
        try:
            if self._connection is None:
                self._check_file()
                self._connection = schema.open_reader(self._path)
            return self._connection.execute(statement, values).fetchall()
        except _FAULTS as error:
            self._close()
            raise StoreUnavailable from error

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close(True)  # force: the operation has reported the error already
            self._connection = None
