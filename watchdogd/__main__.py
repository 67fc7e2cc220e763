"""`python -m watchdogd` is `mongo-watchdog`."""

import sys

from watchdogd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
