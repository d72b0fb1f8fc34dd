"""`python -m tests.artifacts.killed ROOT`: a writer killed before its 1st, 2nd, 3rd … file operation.

Each writer has a store of its own, `ROOT/<step>`, and is a fork of this small process, because a test session has
threads that do not survive a fork. Prints one line of JSON: the number of the first writer that lived to the end.
"""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

from artifacts.store import Store

KEY = "ab" * 32
COUNTED = frozenset({"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"})


def write(store: Store) -> None:
    with store.staged("onnx", KEY) as draft:
        (draft.path / "sub").mkdir()
        (draft.path / "model.onnx").write_text("hello")
        (draft.path / "sub" / "data").write_text("external")
        draft.publish({"opset": 17})


def lived(step: int, store: Store) -> bool:
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    count = itertools.count(1)

    def hook(event: str, _: tuple[object, ...]) -> None:
        if event in COUNTED and next(count) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    write(store)
    os._exit(0)


def main(root: Path) -> None:
    end = next(step for step in itertools.count(1) if lived(step, Store(root / str(step))))
    print(json.dumps(end))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
