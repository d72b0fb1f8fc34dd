"""How one life of a container ended, and what its status says of that."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from local.cluster.logs import ContainerLog
from local.cluster.objects import Object, now_text

NODE_FAULT: Final = (
    128  # exit code of what this machine could not start or keep, as container runtimes have it
)
MESSAGE_BYTES: Final = 4096  # of the message file, as in Kubernetes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a process ended, as `state.terminated` shows it. message: of this machine; the container's own else."""

    code: int
    reason: str
    message: str = ""

    def state(self, *, message: str, container: str, started_at: str) -> Object:
        """The container's state: terminated, now."""
        ended = {"exitCode": self.code, "reason": self.reason, "containerID": f"process://{container}"}
        ended |= {"startedAt": started_at, "finishedAt": now_text()}
        if self.code > NODE_FAULT:
            ended["signal"] = self.code - NODE_FAULT
        if message:
            ended["message"] = message
        return {"terminated": ended}


def ending_of(returncode: int, killed: tuple[str, int] | None) -> Ending:
    """Of a process. killed: (reason, exit code) of a kill that was ours."""
    if killed is not None:
        reason, code = killed
        return Ending(code=code, reason=reason)
    code = NODE_FAULT - returncode if returncode < 0 else returncode
    return Ending(code=code, reason="Completed" if code == 0 else "Error")


def last_words(ending: Ending, policy: str, file: Path, log: ContainerLog | None) -> str:
    """The termination message: this machine's, else the file's, else what `policy` takes of the log.

    What cannot be read is empty: a container may remove its own file.
    """
    if ending.message:
        return ending.message
    with contextlib.suppress(OSError), file.open("rb") as message:
        if text := message.read(MESSAGE_BYTES).decode(errors="replace"):
            return text
    if policy == "FallbackToLogsOnError" and ending.code != 0 and log is not None:
        with contextlib.suppress(OSError):
            return log.tail()
    return ""
