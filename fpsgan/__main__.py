"""`python -m fpsgan`, and the console script."""

import ctypes
import os
import sys
import threading
import time

M_ARENA_MAX = -8  # malloc.h
TRIM_EVERY = 5.0  # seconds


def run() -> None:
    """Run the command line and leave at once: a thread that is still inside a network call must not hold up the exit,
    and torch aborts if Python takes such threads down."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # glibc gives each thread a heap of its own, and pictures that one thread makes and another drops leave holes in
        # all of them, which over a long video grow. Two heaps, and giving their holes back now and then, keep it flat.
        libc.mallopt(M_ARENA_MAX, 2)
        threading.Thread(target=_trim, args=(libc,), daemon=True).start()
    # How often torch's threads look for more work before they sleep; 300,000 times by default, for which the
    # threads that do the rest of a frame would have to wait.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        from fpsgan.cli import main  # takes seconds: Ctrl-C must end that quietly too

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _trim(libc: ctypes.CDLL) -> None:
    while True:
        time.sleep(TRIM_EVERY)
        libc.malloc_trim(0)


if __name__ == "__main__":
    run()
