"""What polls, writes, waiting and growth cost on this machine, each beside a reference of the same run: `make bench`.

The servers that the stores need come from the tests' harness, which therefore has to be found.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
