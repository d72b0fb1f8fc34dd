"""`python -m serving.runtime`; see `serving.runtime.app`."""

import sys

from serving.runtime.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
