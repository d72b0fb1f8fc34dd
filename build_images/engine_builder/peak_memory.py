"""Run as a program: `peak_memory.py ENGINE INPUTS.npz THREADS` prints {"peak_memory_bytes": n}.

A process of its own, because memory of earlier candidates would count; VmHWM and not getrusage, because the
latter keeps the parent's peak across exec. What fails is told on stderr in one line, the last, with exit code 1.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main() -> None:
    """Load, answer once, report the most memory that was resident at a time."""
    engine, inputs, threads = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(engine, options, providers=["CPUExecutionProvider"])
    with np.load(inputs) as feed:
        session.run(None, dict(feed))
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    print(json.dumps({"peak_memory_bytes": peak_kib * 1024}))


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # ONNX Runtime's errors have several lines, and the last of them says least
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))
