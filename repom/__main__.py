"""The console script ``repom``, and ``python -m repom``."""

import os
import signal


def main() -> None:
    """Run the tasks. A signal ends the process quietly from now on, while they are loaded, too."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if number := getattr(signal, name, 0):
            signal.signal(number, lambda signum, _frame: os._exit(128 + signum))
    from repom.tasks import main

    main()


if __name__ == "__main__":
    main()
