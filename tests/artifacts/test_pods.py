"""How a pod ends: the exit code decides about a retry, the last line is what a person reads."""

import errno

import pytest

from artifacts.pods import run
from sluice.errors import FatalError, RetryableError


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        pytest.param(FatalError("it broke", "mend it"), 3, "error: it broke; mend it", id="fatal"),
        pytest.param(RetryableError("away", "wait"), 4, "error: away; wait", id="retryable"),
        pytest.param(
            OSError(errno.ENOSPC, "No space left"), 4, "make room or wait, then retry", id="disk-full"
        ),
        pytest.param(PermissionError(errno.EACCES, "denied"), 3, "check the path", id="no-permission"),
        pytest.param(MemoryError(), 4, "give the pod more memory", id="out-of-memory"),
        pytest.param(KeyError("x"), 3, "error: KeyError: 'x'; read the trace", id="a-bug-of-ours"),
        pytest.param(FatalError("two\nlines", "one step"), 3, "error: two lines; one step", id="one-line"),
    ],
)
def test_a_failed_pod_says_why_on_its_last_line(capsys, error, code, last):
    def work():
        raise error

    assert run(work) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert last in lines[-1]


def test_work_that_ends_is_success():
    assert run(lambda: None) == 0
