"""`python -m jobstatus.processes.child_main NUMBER ADMIN_SOCKET [--dev]`: one worker of `jobstatus serve --workers N`.

Started by its supervisor, with whom it talks over standard input and output.
"""

import sys
from pathlib import Path

from jobstatus.processes.launch import ChildRole
from jobstatus.processes.start import run

if __name__ == "__main__":
    number, admin_socket, *options = sys.argv[1:]
    sys.exit(run(dev="--dev" in options, child=ChildRole(int(number), Path(admin_socket))))
