"""`python -m serving.control`."""

import sys

from serving.control.main import main

if __name__ == "__main__":
    sys.exit(main())
