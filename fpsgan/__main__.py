"""`python -m fpsgan`, and the console script."""

import ctypes
import os
import sys
import threading
import time

M_ARENA_MAX = -8  # malloc.h
TRIM_EVERY = 5.0  # seconds


def run() -> None:
    """Run the command line and exit at once: a thread still blocked in a network call must not delay the exit, and
    torch aborts if the interpreter shuts down while such threads run."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # glibc gives each thread its own heap. Pictures allocated in one thread and freed in another fragment all of
        # them, and over a long video memory grows. Two heaps, trimmed now and then, keep it flat.
        libc.mallopt(M_ARENA_MAX, 2)
        threading.Thread(target=_trim, args=(libc,), daemon=True).start()
    # How long torch's idle threads spin before they sleep. The default, 300,000 rounds, takes the cores from the
    # threads that do the rest of a frame.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        from fpsgan.cli import main  # takes seconds, in which Ctrl-C must be quiet too

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
