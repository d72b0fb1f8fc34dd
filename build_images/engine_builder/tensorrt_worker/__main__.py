"""`python -m build_images.engine_builder.tensorrt_worker`: answers requests from stdin until it closes."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

from build_images.engine_builder.tensorrt_worker.protocol import NO_LIBRARY

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Keep stdout for answers alone: what libraries print to it goes to stderr."""
    end_with_the_builder()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        from build_images.engine_builder.tensorrt_worker.commands import Worker
    except Exception as error:  # ImportError, or what a library of another version raises meanwhile
        refuse(answers, f"{sys.executable}: {type(error).__name__}: {error}")
    else:
        Worker(answers).serve(sys.stdin)


def end_with_the_builder() -> None:
    """A builder that is killed closes stdin, which nobody reads in the middle of a build that may take hours."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def refuse(answers: Any, reason: str) -> None:
    """Answer every request with why none can be served."""
    for _ in sys.stdin:
        answers.write(json.dumps({"error": {"kind": NO_LIBRARY, "reason": reason}}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
