"""When a command collects garbage: not while it is imported, because nearly all that imports make is here to stay."""

import gc


def collect_from_now_on() -> None:
    """Begin to collect garbage, except what exists by now. Does nothing where garbage is collected already."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
