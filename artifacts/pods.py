"""What every pod's main does around its work: the store, the release, the exit code, the last line.

Problem: Kubernetes hands a failed pod's last log line to Airflow, and Airflow decides by the exit code whether
a retry makes sense; a program that forgets either leaves a person to read a stack trace. Invariants: exit 0
only when the artifact is in the store; on failure the last line on stderr is one `error: …` that names what is
wrong and the next step.
"""

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from artifacts.store import Store
from sluice.errors import EXIT_FATAL, EXIT_RETRYABLE, FatalError, SluiceError
from sluice.release import Release

# Before anybody imports ONNX Runtime: its Linux wheel reports to its maker unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# What waiting or another machine can mend; any other OSError of ours is a fault in the call.
MENDABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.EAGAIN})


def add_store_arguments(parser: argparse.ArgumentParser) -> None:
    """`--store DIR --release DIGEST`, the two arguments that every pod has."""
    parser.add_argument("--store", type=Path, required=True, help="folder of the artifact store")
    parser.add_argument("--release", required=True, help="digest of its document, 64 hex digits")


def load_release(store: Store, document: str) -> Release:
    """The release whose `release.json` has the digest `document`. Raises the store's and the release's errors."""
    artifact = store.get("release", document)
    release = Release.from_json((artifact.path / "release.json").read_bytes())
    if release.document_sha256 != document:
        raise FatalError(
            f"release.json under {document[:12]} is of {release.document_sha256[:12]}", "resolve the run anew"
        )
    return release


def unchanged(store: Store, kind: str, key: str) -> bool:
    """True, with the line that says so, when the artifact is there already and its digests hold."""
    if not store.has(kind, key):
        return False
    store.get(kind, key)
    print(f"unchanged: {kind} {key[:12]}", flush=True)
    return True


def run(work: Callable[[], None]) -> int:
    """Do the work; return the pod's exit code after printing the one line that says what went wrong."""
    try:
        work()
    except SluiceError as error:
        return _failed(str(error), error.exit_code)
    except MemoryError:
        traceback.print_exc()
        return _failed("out of memory; give the pod more memory (targets[].resources.memory)", EXIT_RETRYABLE)
    except OSError as error:
        traceback.print_exc()
        mendable = error.errno in MENDABLE
        step = "make room or wait, then retry" if mendable else "check the path and its permissions"
        return _failed(f"{error}; {step}", EXIT_RETRYABLE if mendable else EXIT_FATAL)
    except Exception as error:  # the border of the process: the trace above, one line below, exit 3
        traceback.print_exc()
        return _failed(f"{type(error).__name__}: {error}; read the trace above in the pod's log", EXIT_FATAL)
    return 0


def _failed(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code
