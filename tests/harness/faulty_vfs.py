"""A disk under SQLite that fails where a test wants it to, runs full, and loses power.

While `faulty_disk` is entered, every file that SQLite opens in this process goes through it: a few functions of
SQLite's own VFS are replaced in place, so that neither the store under test nor its driver knows. (apsw's VFS classes
would not do: an error that one of them returns stays pending in Python and comes out of a later call for which SQLite
says OK, such as a commit whose checkpoint failed afterwards.)

The files are real; what is modelled is which of their bytes would be left after a power cut. Only a sync puts bytes on
the disk. A sync that fails does what Linux does: the bytes can still be read, but no later sync writes them. Shared
memory (`-shm`) is never on the disk.
"""

import ctypes
import os
import random
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import apsw

Operation = Literal["open", "read", "write", "sync", "truncate", "delete"]

_FAILURES: Final[dict[Operation, int]] = {
    "open": apsw.SQLITE_CANTOPEN,
    "read": apsw.SQLITE_IOERR_READ,
    "write": apsw.SQLITE_IOERR_WRITE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "delete": apsw.SQLITE_IOERR_DELETE,
}


@dataclass(slots=True)
class _Fault:
    operation: Operation
    first: int
    last: int
    file: str


@dataclass(slots=True)
class _Write:
    """Bytes at an offset; `data` None cuts the file at the offset."""

    offset: int
    data: bytes | None

    def apply(self, image: bytearray) -> None:
        if self.data is None:
            del image[self.offset :]
            return
        image.extend(bytes(max(0, self.offset - len(image))))
        image[self.offset : self.offset + len(self.data)] = self.data


@dataclass(slots=True)
class _File:
    """One file: what is on the disk, and what has been written since."""

    on_disk: bytearray
    unsynced: list[_Write] = field(default_factory=list)
    is_new: bool = False
    is_deleted: bool = False


class Disk:
    """What a test sees and steers. All of a store's threads use it."""

    def __init__(self) -> None:
        self.counts: Counter[Operation] = Counter()
        """How many operations of each kind were tried."""
        self.failed: Counter[Operation] = Counter()
        """How many of them were made to fail."""
        self.capacity: int | None = None
        """How many bytes all files together may have; a write that would need more is refused with SQLITE_FULL."""
        self.on_operation: Callable[[Operation], None] | None = None
        """Called after each operation that succeeded, on the thread that did it."""
        self._files: dict[Path, _File] = {}
        self._faults: list[_Fault] = []
        self._lock = threading.RLock()

    def fail(self, operation: Operation, nth: int = 1, *, times: int = 1, file: str = "") -> None:
        """Let the n-th operation of a kind from now on fail, and those after it, `times` in all.

        Only operations upon files whose names end in `file` count.
        """
        with self._lock:
            self._faults.append(_Fault(operation, nth, nth + times, file))

    def heal(self) -> None:
        """Nothing fails any more, and there is room."""
        with self._lock:
            self._faults.clear()
            self.capacity = None

    def remember(self, folder: Path) -> dict[str, bytes]:
        """Copy the files as a process that crashes now leaves them; what of them is on the disk goes to `adopt`."""
        with self._lock:
            for path in self._files:
                if path.exists():
                    shutil.copy(path, folder / path.name)
            return self.after_power_loss()

    def adopt(self, folder: Path, on_disk: dict[str, bytes], *, rest_is_lost: bool = False) -> None:
        """Of the files in the folder, which nobody has opened yet, only `on_disk` has been synced.

        The rest is written by the next sync, or by none where it is what a sync has failed for.
        """
        for path in folder.iterdir():
            synced, content = on_disk.get(path.name, b""), path.read_bytes()
            start = len(os.path.commonprefix([synced, content]))  # noqa: RUF071  # of bytes, not of paths
            unsynced = [_Write(start, content[start:])] if content[start:] and not rest_is_lost else []
            self._files[path] = _File(bytearray(synced), unsynced)

    def used(self) -> int:
        """How many bytes all files have."""
        return sum(path.stat().st_size for path in self._files if path.exists())

    def after_power_loss(self, chance: random.Random | None = None) -> dict[str, bytes]:
        """The files, by name, as they would be found after a power cut at this moment.

        Without `chance` everything that was not synced is lost. With it each write is lost or not: a disk may have
        written some of them already, in any order.
        """
        with self._lock:
            images = {}
            for path, file in self._files.items():
                image = bytearray(file.on_disk)
                for write in file.unsynced:
                    if chance is not None and chance.random() < 0.5:
                        write.apply(image)
                if image or not file.is_new:
                    images[path.name] = bytes(image)
            return images

    def trouble(self, operation: Operation, path: Path, growth_to: int = 0) -> int:
        """What the operation has to answer instead of being done; 0 if it may be done."""
        with self._lock:
            self.counts[operation] += 1
            answer = self._full(path, growth_to)
            for fault in self._faults:
                if fault.operation == operation and path.name.endswith(fault.file):
                    fault.first, fault.last = fault.first - 1, fault.last - 1
                    if fault.first < 1 <= fault.last:
                        answer = _FAILURES[operation]
            if answer:
                self.failed[operation] += 1
                if operation == "sync":
                    self._files[path].unsynced.clear()
            return answer

    def _full(self, path: Path, growth_to: int) -> int:
        if self.capacity is None:
            return 0
        growth = max(0, growth_to - path.stat().st_size) if growth_to else 0
        return apsw.SQLITE_FULL if growth and self.used() + growth > self.capacity else 0

    def opening(self, path: Path) -> None:
        """The file is about to be opened; what it has when it is seen first counts as synced."""
        with self._lock:
            known = self._files.get(path)
            if known is not None and not known.is_deleted:
                return
            exists = path.exists()
            on_disk = path.read_bytes() if exists else bytes(known.on_disk) if known else b""
            self._files[path] = _File(bytearray(on_disk), [] if exists else [_Write(0, None)], is_new=not exists)

    def wrote(self, path: Path, offset: int, data: bytes | None) -> None:
        with self._lock:
            self._files[path].unsynced.append(_Write(offset, data))

    def synced(self, path: Path) -> None:
        """What was written is on the disk. With a new journal or log SQLite syncs the folder, and deletions with it."""
        with self._lock:
            file = self._files[path]
            for write in file.unsynced:
                write.apply(file.on_disk)
            file.unsynced.clear()
            if file.is_new:
                file.is_new = False
                self._files = {name: other for name, other in self._files.items() if not other.is_deleted}

    def deleted(self, path: Path) -> None:
        with self._lock:
            if path in self._files:
                self._files[path].is_deleted = True

    def done(self, operation: Operation) -> None:
        if self.on_operation is not None:
            self.on_operation(operation)


# --- SQLite's VFS, as sqlite3.h lays it out in words of eight bytes ---

_X_OPEN: Final = 5  # after iVersion and szOsFile, mxPathname, pNext, zName, pAppData
_X_DELETE: Final = 6
_X_READ, _X_WRITE, _X_TRUNCATE, _X_SYNC = 2, 3, 4, 5  # after iVersion, xClose
_METHODS: Final = 19  # up to and with xUnfetch of version 3

_POINTER, _INT, _INT64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_Open = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER)  # SQLite keeps the name's pointer
_Delete = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _INT)
_Transfer = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _INT, _INT64)
_Truncate = ctypes.CFUNCTYPE(_INT, _POINTER, _INT64)
_Sync = ctypes.CFUNCTYPE(_INT, _POINTER, _INT)

_kept: list[object] = []
"""Functions that C code may still call: they must outlive every connection."""


def _words(address: int, count: int) -> "ctypes.Array[ctypes.c_uint64]":
    return (ctypes.c_uint64 * count).from_address(address)


def _address(function: Any) -> int:
    return ctypes.cast(function, _POINTER).value or 0


def _path(name: int) -> Path:
    return Path(ctypes.string_at(name).decode())


def _default_vfs() -> "ctypes.Array[ctypes.c_uint64]":
    pointer = ctypes.c_uint64()
    with tempfile.TemporaryDirectory() as folder, closing(apsw.Connection(str(Path(folder, "any")))) as connection:
        connection.file_control("main", apsw.SQLITE_FCNTL_VFS_POINTER, ctypes.addressof(pointer))
    return _words(pointer.value, _X_DELETE + 1)


class _FaultyFiles:
    """The functions that stand in for SQLite's own: each asks the disk, then calls what it stands in for."""

    def __init__(self, disk: Disk, vfs: "ctypes.Array[ctypes.c_uint64]") -> None:
        self._disk = disk
        self._real_open, self._real_delete = _Open(vfs[_X_OPEN]), _Delete(vfs[_X_DELETE])
        self._paths: dict[int, Path] = {}
        self._methods: dict[int, ctypes.Array[ctypes.c_uint64]] = {}
        self.open, self.delete = _Open(self._open), _Delete(self._delete)
        _kept.append(self)

    def _open(self, vfs: int, name: int | None, file: int, flags: int, out_flags: int) -> int:
        if not name:  # a temporary file
            return int(self._real_open(vfs, name, file, flags, out_flags))
        path = _path(name)
        if answer := self._disk.trouble("open", path):
            _words(file, 1)[0] = 0
            return answer
        self._disk.opening(path)
        if answer := self._real_open(vfs, name, file, flags, out_flags):
            return int(answer)
        self._paths[file] = path
        methods = _words(file, 1)
        methods[0] = ctypes.addressof(self._faulty(methods[0]))
        self._disk.done("open")
        return apsw.SQLITE_OK

    def _delete(self, vfs: int, name: int, sync_folder: int) -> int:
        path = _path(name)
        if answer := self._disk.trouble("delete", path):
            return answer
        if answer := self._real_delete(vfs, name, sync_folder):
            return int(answer)
        self._disk.deleted(path)
        self._disk.done("delete")
        return apsw.SQLITE_OK

    def _faulty(self, address: int) -> "ctypes.Array[ctypes.c_uint64]":
        """SQLite's table of a file's methods, with some of them replaced."""
        if address not in self._methods:
            real = _words(address, _METHODS)
            mine = type(real)(*real)
            replaced = {
                _X_READ: _Transfer(self._reading(_Transfer(real[_X_READ]))),
                _X_WRITE: _Transfer(self._writing(_Transfer(real[_X_WRITE]))),
                _X_TRUNCATE: _Truncate(self._truncating(_Truncate(real[_X_TRUNCATE]))),
                _X_SYNC: _Sync(self._syncing(_Sync(real[_X_SYNC]))),
            }
            for index, function in replaced.items():
                mine[index] = _address(function)
            self._methods[address] = mine
            _kept.append(replaced)
        return self._methods[address]

    def _reading(self, real: Callable[..., int]) -> Callable[[int, int, int, int], int]:
        def read(file: int, data: int, amount: int, offset: int) -> int:
            return self._disk.trouble("read", self._paths[file]) or real(file, data, amount, offset)

        return read

    def _writing(self, real: Callable[..., int]) -> Callable[[int, int, int, int], int]:
        def write(file: int, data: int, amount: int, offset: int) -> int:
            path = self._paths[file]
            answer = self._disk.trouble("write", path, growth_to=offset + amount)
            if answer == apsw.SQLITE_FULL:
                return answer
            amount = amount // 2 if answer else amount  # what fails has been done in part
            answer = real(file, data, amount, offset) or answer
            self._disk.wrote(path, offset, ctypes.string_at(data, amount))
            if not answer:
                self._disk.done("write")
            return answer

        return write

    def _truncating(self, real: Callable[..., int]) -> Callable[[int, int], int]:
        def truncate(file: int, size: int) -> int:
            answer = self._disk.trouble("truncate", self._paths[file]) or real(file, size)
            if not answer:
                self._disk.wrote(self._paths[file], size, None)
                self._disk.done("truncate")
            return answer

        return truncate

    def _syncing(self, real: Callable[..., int]) -> Callable[[int, int], int]:
        def sync(file: int, flags: int) -> int:
            answer = self._disk.trouble("sync", self._paths[file]) or real(file, flags)
            if not answer:
                self._disk.synced(self._paths[file])
                self._disk.done("sync")
            return answer

        return sync


@contextmanager
def faulty_disk() -> Iterator[Disk]:
    """A disk for all files that SQLite opens from now on; close the connections before leaving."""
    assert ctypes.sizeof(_POINTER) == 8, "the layout above is that of a 64-bit machine"
    disk, vfs = Disk(), _default_vfs()
    real = list(vfs)
    files = _FaultyFiles(disk, vfs)
    vfs[_X_OPEN], vfs[_X_DELETE] = _address(files.open), _address(files.delete)
    try:
        yield disk
    finally:
        vfs[_X_OPEN], vfs[_X_DELETE] = real[_X_OPEN], real[_X_DELETE]
