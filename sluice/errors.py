"""Errors that say who must act.

Problem: a failed task is retried, or a person is called, on the strength of one exception. So every error of
ours is either `RetryableError` (a retry can mend it: a full disk, a server that is away) or `FatalError` (it
cannot: the spec, the model or the caller is at fault).

Invariants: `args` equals the constructor's positional parameters, so that an error survives pickle between
processes; `str(error)` is one line that ends in the next step; what a program needs is an attribute, never
something to be cut out of the text.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Self

EXIT_USAGE = 2  # exit codes of every program that runs in a pod; 0 is success
EXIT_FATAL = 3
EXIT_RETRYABLE = 4
EXIT_WRONG_DEVICE = 5  # fatal too: the machine is at fault, not the model or the spec


class SluiceError(Exception):
    """Root of every error of ours.

    Use it plainly as `FatalError(message, next_step)`, or make a subclass with fields: its constructor passes
    its parameters to `super().__init__` in order, keeps them as attributes, and overrides the properties
    `message` and `next_step`.
    """

    exit_code: ClassVar[int] = EXIT_FATAL
    code: ClassVar[str] = "sluice"  # kebab case of the class name, for HTTP answers; set per subclass

    def __init__(self, *args: object, next_step: str | None = None) -> None:
        super().__init__(*args, *(() if next_step is None else (next_step,)))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "code" not in vars(cls):
            words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__.removesuffix("Error"))
            cls.code = words.lower()

    @property
    def message(self) -> str:
        """What is wrong: the field, the value, what was wanted; one line."""
        return str(self.args[0]) if self.args else type(self).__name__

    @property
    def next_step(self) -> str:
        """What the reader does now; empty when the message says it already."""
        return str(self.args[1]) if len(self.args) > 1 else ""

    @property
    def fields(self) -> dict[str, Any]:
        """The attributes that a program may read, by name."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __str__(self) -> str:
        text = f"{self.message}; {self.next_step}" if self.next_step else self.message
        return " ".join(text.split())


class RetryableError(SluiceError):
    """The same call may succeed later: Airflow retries, a pod exits with 4."""

    exit_code = EXIT_RETRYABLE


class FatalError(SluiceError):
    """A retry cannot mend it: the task fails for good, a pod exits with 3."""

    exit_code = EXIT_FATAL


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a document.

    path: dotted, list items by index from 0 (`stages.2.percent`); empty for the whole document.
    value: what stands there, None when nothing does. line: in the YAML text, from 1, when known.
    """

    path: str
    value: Any
    message: str
    line: int | None = None

    def __str__(self) -> str:
        where = self.path or "document"
        shown = "" if self.value is None else f" = {_short(self.value)}"
        line = "" if self.line is None else f" (line {self.line})"
        return f"{where}{shown}{line}: {self.message}"


class ProblemsError(FatalError):
    """Everything that is wrong with one document, at once: `problems` is never empty."""

    what: ClassVar[str] = "document"
    fix: ClassVar[str] = "correct each named field"

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        if not problems:
            raise ValueError("ProblemsError needs at least one problem")
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    @classmethod
    def of(cls, message: str, *, path: str = "", value: Any = None) -> Self:
        """The error of a single problem; of the whole document when no path is given."""
        return cls((Problem(path, value, message),))

    @property
    def message(self) -> str:
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''} in the {self.what}"
        return f"{count}: " + " | ".join(str(problem) for problem in self.problems)

    @property
    def next_step(self) -> str:
        return self.fix


class SpecError(ProblemsError):
    """A release spec that cannot be used; `problems` names each field."""

    what = "release spec"
    fix = "correct each named field in dags/models/<service>.yaml"


class PolicyError(ProblemsError):
    """A rollout policy that the controller cannot follow."""

    what = "rollout policy"
    fix = "send the policy that ReleaseSpec.policy() makes"


class ParamsError(ProblemsError):
    """Params of a run that cannot be used; `problems` names each field."""

    what = "params of the run"
    fix = "trigger the run again with each named field corrected"


def _short(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
