"""`python -m jobstatus.processes.child_main NUMBER [--dev]`: one serving process of `jobstatus serve --workers N`.

Its supervisor starts it, with a socket as its standard input (see `child_channel`).
"""

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # until the start is over (see launch.end_start): nearly all that it makes is here to stay
    from jobstatus.processes.hangup import EarlyHangUps

    EarlyHangUps.expect()
    from jobstatus.processes.quick_import import import_aiohttp

    import_aiohttp()
    from jobstatus.processes.start import run

    number, *options = sys.argv[1:]
    sys.exit(run(dev="--dev" in options, options={}, child=int(number)))
