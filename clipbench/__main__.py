"""`python -m clipbench`: the command line."""

import sys

from clipbench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
