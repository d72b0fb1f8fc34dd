"""The fastest candidate that is accurate enough, with a reason; and never one that fails."""

import dataclasses

import pytest

from build_images.engine_builder.choose import Measured, choose, passes
from build_images.engine_builder.errors import NoEngineError
from build_images.engine_builder.task import TaskResult

BARS = {"fp32": 0.9999, "int8": 0.98}


def measured(name, cosine, p50_ms):
    return Measured(name=name, precision=name.partition("-")[0], cosine=cosine, p50_ms=p50_ms)


@pytest.mark.parametrize(
    ("candidates", "asked", "name", "text"),
    [
        pytest.param(
            [measured("fp32", 1.0, 9.0), measured("int8-minmax", 0.97, 4.0)],
            ("fp32", "int8"), "fp32", "not int8-minmax: cosine 0.9700 < 0.98", id="fast-but-inaccurate-loses",
        ),
        pytest.param(
            [measured("fp32", 1.0, 9.0), measured("int8-minmax", float("nan"), 4.0)],
            ("fp32", "int8"), "fp32", "cosine nan < 0.98", id="nan-loses",
        ),
        *(
            pytest.param(
                [measured("int8-minmax", 1.0, no_time), measured("fp32", 1.0, 9.0)],
                ("fp32", "int8"), "fp32", f"its p50 is {no_time} ms", id=f"a-time-of-{no_time}-loses",
            )
            for no_time in (float("nan"), 0.0, float("inf"))
        ),
        pytest.param(
            [measured("fp32", 1.0, 9.0), measured("int8-minmax", 0.5, 4.0)],
            ("int8",), "fp32", "no asked-for precision is accurate enough, so fp32", id="fallback-says-so",
        ),
        pytest.param(
            [measured("fp32", 1.0, 3.0), measured("int8-minmax", 0.99, 4.0)],
            ("fp32", "int8"), "fp32", "not int8-minmax: 4.00 ms", id="accurate-but-slower-loses",
        ),
        pytest.param(
            [measured("fp32", 1.0, 3.0), measured("int8-minmax", 0.99, 4.0)],
            ("int8",), "int8-minmax", "fastest", id="only-what-is-asked-for",
        ),
        pytest.param(
            [measured("fp32", 1.0, 9.0), measured("int8-a", 0.99, 5.0), measured("int8-b", 0.985, 4.0)],
            ("fp32", "int8"), "int8-b", "not fp32: 9.00 ms", id="fastest-that-passes-wins",
        ),
    ],
)  # fmt: skip
def test_choose(candidates, asked, name, text):
    choice = choose(candidates, BARS, asked, {})
    assert choice.name == name
    assert text in choice.reason
    assert set(choice.rejected) == {one.name for one in candidates} - {name}


@pytest.mark.parametrize(
    ("candidates", "asked", "name", "text"),
    [
        pytest.param(
            [("fp32", 1.0), ("fp16", 0.9999), ("int8-a", 0.97)],
            ("fp32", "fp16", "int8"), "fp16", "not int8-a: cosine 0.9700 < 0.98", id="small-but-inaccurate-loses",
        ),
        pytest.param(
            [("fp32", 1.0), ("fp16", 0.9999), ("int8-a", 0.985), ("int8-b", 0.99)],
            ("fp32", "fp16", "int8"), "int8-b", "not int8-a: cosine 0.9850", id="the-most-accurate-of-one-size",
        ),
        pytest.param(
            [("fp32", 1.0), ("fp16", 0.5), ("int8-a", float("nan"))],
            ("fp16", "int8"), "fp32", "no asked-for precision is accurate enough", id="fp32-is-always-allowed",
        ),
    ],
)  # fmt: skip
def test_what_was_not_timed_is_chosen_by_size_and_says_so(candidates, asked, name, text):
    bars = {**BARS, "fp16": 0.999}
    choice = choose([measured(one, cosine, None) for one, cosine in candidates], bars, asked, {})
    assert choice.name == name
    assert text in choice.reason
    assert name == "fp32" or "not timed" in choice.reason
    assert " ms" not in choice.reason


def at_task(one, value, **changes):
    return dataclasses.replace(one, task=TaskResult.of("recall_at_1", 1000, 0.894, value, **changes))


FP32_AT_TASK = at_task(measured("fp32", 1.0, 9.0), 0.894)
INT8 = measured("int8-minmax", 0.99, 4.0)
UNABLE = at_task(INT8, 0.0, why="no output y")


@pytest.mark.parametrize(
    ("int8", "asked", "name", "text"),
    [
        pytest.param(
            at_task(INT8, 0.871), ("fp32", "int8"), "fp32",
            "not int8-minmax: recall_at_1 0.871, 0.023 below fp32's 0.894 (limit 0.01)", id="near-by-cosine-and-worse",
        ),
        pytest.param(
            at_task(INT8, 0.871), ("int8",), "fp32",
            "fp32: no asked-for precision is accurate enough, so fp32", id="the-fallback-says-so",
        ),
        pytest.param(INT8, ("fp32", "int8"), "fp32", "its task was not measured", id="not-measured"),
        pytest.param(UNABLE, ("fp32", "int8"), "fp32", "recall_at_1: no output y", id="could-not-be-judged"),
        pytest.param(
            at_task(INT8, float("nan")), ("fp32", "int8"), "fp32", "recall_at_1 nan", id="nan-loses"
        ),
        pytest.param(
            dataclasses.replace(at_task(INT8, 0.894), cosine=0.97), ("fp32", "int8"), "fp32",
            "cosine 0.9700 < 0.98", id="the-bar-still-counts",
        ),
        pytest.param(at_task(INT8, 0.884), ("fp32", "int8"), "int8-minmax", "not fp32: 9.00 ms", id="at-the-limit"),
        pytest.param(at_task(INT8, 0.9), ("fp32", "int8"), "int8-minmax", "not fp32: 9.00 ms", id="better-than-fp32"),
    ],
)  # fmt: skip
def test_choose_by_the_task(int8, asked, name, text):
    choice = choose([FP32_AT_TASK, int8], BARS, asked, {}, 0.01)
    assert choice.name == name
    assert text in choice.reason
    assert passes(int8, BARS, 0.01) == (name != "fp32")


def test_without_a_limit_the_task_does_not_count():
    assert choose([FP32_AT_TASK, at_task(INT8, 0.1)], BARS, ("fp32", "int8"), {}).name == "int8-minmax"


def test_where_not_even_fp32_is_good_enough_at_the_task_nothing_is_served():
    with pytest.raises(NoEngineError, match=r"not fp32: its task was not measured.*or task in the spec"):
        choose([measured("fp32", 1.0, 9.0)], BARS, ("fp32", "int8"), {}, 0.01)


@pytest.mark.parametrize("candidates", [[], [measured("fp32", 0.9, 1.0)]], ids=["nothing", "fp32-fails"])
def test_choose_never_serves_what_fails(candidates):
    with pytest.raises(NoEngineError):
        choose(candidates, BARS, ("fp32", "int8"), {})


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        pytest.param(
            ("fp16",), "fp32: no asked-for precision can be built, so fp32", id="nothing-else-was-asked-for"
        ),
        pytest.param(("fp32", "fp16"), "fp32: fastest that is accurate enough", id="fp32-was-asked-for"),
        pytest.param(
            ("int8", "fp16"), "fp32: no asked-for precision is accurate enough", id="another-was-measured"
        ),
    ],
)
def test_a_precision_that_cannot_be_built_is_not_called_inaccurate(asked, says):
    candidates = [measured("fp32", 1.0, 9.0), *([measured("int8-a", 0.5, 4.0)] if "int8" in asked else [])]
    choice = choose(candidates, BARS, asked, {"fp16": "no kernels here"})
    assert choice.reason.startswith(says)
    assert choice.reason.endswith("not fp16: no kernels here")
    assert choice.rejected["fp16"] == "no kernels here"
