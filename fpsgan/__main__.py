"""`python -m fpsgan`, and the console script."""

import os
import sys


def run() -> None:
    """Run the command line and leave at once: a thread that is still inside a network call must not hold up the exit,
    and torch aborts if Python takes such threads down."""
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


if __name__ == "__main__":
    run()
