"""What every serving process does around its start."""

import gc

from jobstatus.processes.launch import end_start


def test_garbage_is_collected_after_the_start() -> None:
    """The commands switch the collector off for the start; without it a process would grow for ever."""
    gc.disable()
    try:
        end_start()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()
