#!/bin/sh
# A guess: what SQLite has read stays in its page cache, so a row that is read again costs no read of the file as long
#   as the cache has room and nobody has written.
# The truth: that holds for rows that fit a page. A value of several pages lies in overflow pages, and where SQLite is
#   built with DIRECT_OVERFLOW_READ, as in apsw's wheels, these are read from the file each time, a page at a time and
#   past the cache, inside one transaction too. A value of 1 MiB is 256 reads of 4 KiB each time.
# Why it matters: a larger cache does nothing for large values; larger pages do. Whoever measures reads of small rows
#   does not see what large ones cost.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'apsw==3.54.1.0'
"$folder/venv/bin/python" - "$folder/jobs.db" <<'PYTHON'
import sys

import apsw

reads = 0


class CountingFile(apsw.VFSFile):
    def __init__(self, name, flags):
        super().__init__("", name, flags)

    def xRead(self, amount, offset):
        global reads
        reads += 1
        return super().xRead(amount, offset)


class CountingFiles(apsw.VFS):
    def __init__(self):
        super().__init__("counting", "")

    def xOpen(self, name, flags):
        return CountingFile(name, flags)


def reads_of(query):
    before = reads
    connection.execute(query).fetchall()
    return reads - before


files = CountingFiles()
connection = apsw.Connection(sys.argv[1], vfs="counting")
connection.execute("PRAGMA page_size = 4096; CREATE TABLE jobs (id INTEGER PRIMARY KEY, result BLOB)")
connection.execute("INSERT INTO jobs VALUES (0, zeroblob(1048576))")
connection.executemany("INSERT INTO jobs VALUES (?, zeroblob(3000))", [(number,) for number in range(1, 257)])
connection.close()

connection = apsw.Connection(sys.argv[1], vfs="counting")
connection.execute("PRAGMA cache_size = -65536; BEGIN")  # 64 MiB, and nobody can change anything in between
small = [reads_of("SELECT result FROM jobs WHERE id > 0") for _ in range(3)]
large = [reads_of("SELECT result FROM jobs WHERE id = 0") for _ in range(3)]
print("SQLite", apsw.sqlite_lib_version(), *(option for option in apsw.compile_options if "OVERFLOW" in option))
print("reads of the file for 256 values of 3 kB, three times:", small)
print("reads of the file for one value of 1 MiB, three times:", large)
sys.exit(0 if small[0] >= 256 and small[1:] == [0, 0] and min(large) >= 256 else 1)
PYTHON
