"""Stands in for `tensorrt_worker` where there is no GPU: answers its commands, computes by ONNX Runtime.

What it answers is held against what the real one answered on a GPU (see `tensorrt_answers.json`). Its
arguments, those of `python`, are ignored. TENSORRT_STAND_IN, JSON, tells how to misbehave:
{"arch": .., "die_in": COMMAND, "hang_in": COMMAND, "errors": {CANDIDATE'S PRECISION: {..}}, "by_network": true,
"refuse_cache": true, "fault": [COMMAND, FOLDER OF AN ENGINE]}.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

TOLD = json.loads(os.environ.get("TENSORRT_STAND_IN", "{}"))
HEAD = b"ftrt" + bytes(20) + bytes((8, 6, 0, 12)) + bytes(68)
DEVICE = {
    "arch": TOLD.get("arch", "sm_90"),
    "name": "NVIDIA H100 80GB HBM3",
    "sm_count": 132,
    "memory_bytes": 85_520_809_984,
    "driver": "580.159.04",
    "cuda": "13.0",
}
TACTICS = 10


class StandIn:
    """One process' engines: a plan names the ONNX that it stands for."""

    def __init__(self):
        self.sessions = {}

    def facts(self):
        return {
            "version": "8.6.0",
            "offers": {"strongly_typed": TOLD.get("by_network", False)},
            "device": DEVICE,
        }

    def build(self, source, engine, precision, cache_in, cache_out, replay, strip_weights, **_):
        say({"progress": f"{TACTICS} tactics timed, 0.1 s"})
        if error := TOLD.get("errors", {}).get(precision):
            return {"error": error}
        if cache_in and TOLD.get("refuse_cache"):
            return {"error": {"kind": "cache_refused", "reason": "is of another device or version"}}
        if strip_weights:
            return {
                "error": {"kind": "not_offered", "option": "strip_weights: true", "reason": "not in 8.6.0"}
            }
        before = Path(cache_in).read_bytes() if cache_in else b"cache"
        known = set(before.decode().split("\n"))
        after = before if precision in known else before + f"\n{precision}".encode()
        if replay and after != before:
            return {"error": {"kind": "cache_miss", "reason": "the cache grew"}}
        Path(cache_out).write_bytes(after)
        Path(engine).write_bytes(HEAD + str(source).encode())
        return {
            "seconds": 0.1,
            "cache_bytes": [len(before), len(after)],
            "tactics_timed": TACTICS,
            "said": [],
        }

    def open(self, name, engine, weights):
        self.sessions[name] = onnxruntime.InferenceSession(Path(engine).read_bytes()[len(HEAD) :].decode())
        return {}

    def run(self, name, inputs, outputs):
        session = self.sessions[name]
        with np.load(inputs) as feed:
            answers = session.run(None, dict(feed))
        np.savez(
            outputs, **{value.name: one for value, one in zip(session.get_outputs(), answers, strict=True)}
        )
        return {}

    def time(self, names, inputs, rounds, least, budget_s):
        host, device = [0.5, 0.25, 0.5, 1.0], [0.2, 0.2, 0.2, 0.3]
        return {name: {"host_ms": host, "device_ms": device, "cuda_graph": True} for name in names}

    def layers(self, name, inputs):
        layers = [
            {"name": "/up/MatMul", "ms": 0.2, "share": 0.8},
            {"name": "/down/MatMul", "ms": 0.05, "share": 0.2},
        ]
        return {"layers": layers, "described": '{"Layers": []}'}

    def peak(self, engine, inputs, runs, weights):
        return {"peak_memory_bytes": 560_988_160, "before_bytes": 0}


def say(answer):
    print(json.dumps(answer), flush=True)


def main():
    stand_in = StandIn()
    for line in sys.stdin:
        request = json.loads(line)
        command = request.pop("command")
        if TOLD.get("die_in") == command:
            os.kill(os.getpid(), signal.SIGKILL)
        while TOLD.get("hang_in") == command:
            time.sleep(60)
        if TOLD.get("fault") == [command, Path(request.get("engine", "")).parent.name]:
            say({"error": {"kind": "fault", "reason": "an illegal memory access"}})
            continue
        answer = getattr(stand_in, command)(**request)
        say(answer if "error" in answer else {"result": answer})


if __name__ == "__main__":
    main()
