"""The border of a server's process: an exit code, and one last line that says what went wrong."""

import sys
import traceback
from collections.abc import Callable

from sluice.errors import EXIT_FATAL, SluiceError


def ended(work: Callable[[], None]) -> int:
    """Do the work; the exit code: 0, or the error's own after its `error: ...` line, 3 for what nobody foresaw."""
    try:
        work()
    except SluiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:  # a trace for us, one line for who reads the pod
        traceback.print_exc()
        text = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"error: {text}; read the trace above in the pod's log", file=sys.stderr)
        return EXIT_FATAL
    return 0
