"""Errors cross process borders whole, and say who must act."""

import inspect
import pickle

import pytest

import artifacts.errors
import artifacts.tree
import sluice.errors
import sluice.manifest
import sluice.release
import sluice.signature
import sluice.stages
from sluice.errors import FatalError, Problem, RetryableError, SluiceError, SpecError

MODULES = (
    artifacts.errors,
    artifacts.tree,
    sluice.errors,
    sluice.manifest,
    sluice.release,
    sluice.signature,
    sluice.stages,
)
PLAIN = (SluiceError, RetryableError, FatalError)
CLASSES = sorted(
    {
        value
        for module in MODULES
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, SluiceError) and value not in PLAIN
    },
    key=lambda cls: cls.__name__,
)
EXAMPLES = {
    "problems": (Problem("a.b", 3, "wrong", 7),),
    "state": sluice.stages.State.PROMOTED,
    "action": sluice.stages.Action.OPEN,
    "needed_bytes": 10,
    "free_bytes": 5,
}


def example(cls: type[SluiceError]) -> SluiceError:
    names = [name for name in inspect.signature(cls).parameters if name != "next_step"]
    return cls(*(EXAMPLES.get(name, name[:12]) for name in names))


def test_the_walk_finds_every_module_of_errors():
    assert len(CLASSES) >= 14


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_survives_pickle_with_its_fields_and_its_text(cls):
    """A pod, a worker and a scheduler hand errors on by pickle; one that breaks there hides the cause."""
    error = example(cls)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 our own bytes
    assert type(again) is cls
    assert (again.args, again.fields, str(again)) == (error.args, error.fields, str(error))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_is_one_line_names_its_fields_and_says_who_acts(cls):
    error = example(cls)
    assert "\n" not in str(error)
    assert isinstance(error, RetryableError | FatalError)
    for value in error.fields.values():
        shown = value[0].path if isinstance(value, tuple) else str(value)
        assert shown in str(error), value


def test_a_plain_error_takes_message_and_next_step():
    error = FatalError("disk is gone", next_step="mount it")
    assert str(error) == "disk is gone; mount it"
    assert (error.message, error.next_step) == ("disk is gone", "mount it")
    assert pickle.loads(pickle.dumps(error)).args == ("disk is gone", "mount it")  # noqa: S301


def test_codes_and_exit_codes_are_those_of_the_contract():
    assert (FatalError("x").exit_code, RetryableError("x").exit_code) == (3, 4)
    assert artifacts.errors.ArtifactMissingError.code == "artifact-missing"


def test_an_error_of_problems_names_each_of_them():
    error = SpecError((Problem("a", 1, "bad"), Problem("b.0", None, "missing", 4)))
    assert str(error).startswith("2 problems in the release spec: a = 1: bad | b.0 (line 4): missing; ")


def test_no_problems_is_no_error():
    with pytest.raises(ValueError, match="at least one"):
        SpecError(())
