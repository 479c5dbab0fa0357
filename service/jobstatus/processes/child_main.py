"""`python -m jobstatus.processes.child_main NUMBER [--dev]`: one serving process of `jobstatus serve --workers N`.

Its supervisor starts it, with a socket as its standard input (see `child_channel`).
"""

import sys

from jobstatus.processes.start import run

if __name__ == "__main__":
    number, *options = sys.argv[1:]
    sys.exit(run(dev="--dev" in options, child=int(number)))
