"""A target's architecture is one that its backend can build for, or the spec says so before any pod starts."""

from pathlib import Path

import pytest
import yaml

from sluice.errors import SpecError
from sluice.plan import RTX_ARCHS
from tests.sluice.specs import PINNED, SHA, parse


def target(arch, backend, image=PINNED):
    return {"targets.0.arch": arch, "targets.0.backend": backend, "targets.0.image": image}


@pytest.mark.parametrize(
    ("arch", "backend", "says"),
    [
        pytest.param(
            "sm_90",
            "tensorrt_rtx",
            "TensorRT-RTX cannot build for Hopper; use backend tensorrt",
            id="hopper-by-rtx",
        ),
        pytest.param(
            "sm_70", "tensorrt_rtx", "builds for sm_75, sm_80, sm_86, sm_89, sm_120, sm_121", id="old"
        ),
        pytest.param("cpu-avx2", "tensorrt_rtx", "such as sm_80", id="a-cpu-by-rtx"),
        pytest.param("cpu-avx2", "tensorrt", "such as sm_80", id="a-cpu-by-tensorrt"),
        pytest.param("a100", "tensorrt", "such as sm_80", id="a-product-name"),
        pytest.param("sm_8", "tensorrt", "such as sm_80", id="one-digit"),
        pytest.param("sm_8000", "tensorrt", "such as sm_80", id="four-digits"),
        pytest.param("sm-80", "tensorrt", "such as sm_80", id="as-kubernetes-spells-it"),
    ],
)
def test_an_architecture_that_the_backend_cannot_build_for_is_refused_with_the_reason(arch, backend, says):
    with pytest.raises(SpecError) as caught:
        parse(target(arch, backend))
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("targets.0.arch", arch)
    assert says in problem.message


@pytest.mark.parametrize(
    ("arch", "backend"),
    [*((arch, "tensorrt_rtx") for arch in RTX_ARCHS), ("sm_90", "tensorrt"), ("sm_100", "tensorrt")],
)
def test_what_the_backend_can_build_for_is_accepted(arch, backend):
    assert parse(target(arch, backend)).targets[0].arch == arch


@pytest.mark.parametrize(
    "image",
    [
        pytest.param("builder:1", id="a-tag-that-can-move"),
        pytest.param("builder", id="a-name"),
        pytest.param(f"builder@sha256:{SHA}", id="a-digest-that-nobody-can-read"),
        pytest.param(f"builder:1@sha256:{SHA[:-1]}", id="63-digits"),
        pytest.param(f"builder:1@sha256:{SHA}0", id="65-digits"),
        pytest.param(f"builder:1@sha256:{SHA.upper()}", id="capitals"),
        pytest.param(f"builder:1@sha512:{SHA}", id="another-digest"),
        pytest.param(f"registry:5000/builder@sha256:{SHA}", id="a-port-is-no-tag"),
        pytest.param(f"builder:1@sha256:{SHA}\n", id="a-line-end"),
    ],
)
def test_tensorrt_s_image_needs_tag_and_digest_and_the_problem_says_why_and_how(image):
    with pytest.raises(SpecError) as caught:
        parse(target("sm_80", "tensorrt", image))
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("targets.0.image", image)
    for said in ("exact TensorRT", "name:tag@sha256:<64 hex digits>", "docker buildx imagetools inspect"):
        assert said in problem.message


@pytest.mark.parametrize(
    ("image", "backend"),
    [
        (PINNED, "tensorrt"),
        (f"registry.example:5000/a/b:25.03-py3@sha256:{SHA}", "tensorrt"),
        ("builder:1", "tensorrt_rtx"),
    ],
)
def test_a_pinned_image_is_accepted_and_only_tensorrt_asks_for_one(image, backend):
    assert parse(target("sm_80", backend, image)).targets[0].image == image


def test_the_target_that_the_shipped_spec_shows_as_a_comment_needs_its_digest_and_nothing_else():
    lines = (Path(__file__).parents[2] / "dags" / "models" / "minilm.yaml").read_text().splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("# - arch:"))
    shown = [line[2:] for line in lines[start:] if line.startswith(("# - ", "#   "))]
    (example,) = yaml.safe_load("\n".join(shown).replace("<the 64 hex digits>", SHA))
    needed = {**example, "arch": "sm_86", "optional": False, "share": 1 - example["share"]}
    one, _ = parse({"targets": [example, needed]}).targets
    assert (one.arch, one.backend, one.optional) == ("sm_80", "tensorrt", True)
