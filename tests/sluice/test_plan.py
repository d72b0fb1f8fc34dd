"""A plan's first bytes say what it is; nothing but what they say is believed."""

import json
import random
import struct

import pytest

from sluice.errors import FatalError
from sluice.manifest import EngineManifest, ManifestError, ManifestMismatchError
from sluice.plan import (
    ARCH_BITS,
    HEAD_BYTES,
    PlanHeader,
    PlanHeaderError,
    PlanMismatchError,
    check_plan,
    read_header,
)
from tests.sluice.test_manifest import SHA, WHOLE

# The first 64 bytes of a plan that TensorRT-RTX 1.7.1.116 built for sm_80.
REAL_RTX = bytes.fromhex(
    "76747274000000000200000000000000e4e5ae05000000000107017476747274"
    "02000000000000000000000000000000000000000000000000000000" + "6a610500"
)
MUTATIONS = 100_000


def rtx(mask=2, version=(1, 7, 1, 116)):
    return REAL_RTX[:24] + bytes(version) + REAL_RTX[28:32] + struct.pack("<Q", mask) + REAL_RTX[40:]


def ftrt(version=(10, 16, 1, 11)):
    return b"ftrt" + bytes(20) + bytes(version) + bytes(36)


def test_a_real_plan_of_tensorrt_rtx_tells_its_version_and_architecture():
    header = PlanHeader(family="tensorrt_rtx", version=(1, 7, 1, 116), archs=frozenset({"sm_80"}))
    assert read_header(REAL_RTX) == header


@pytest.mark.parametrize(("bit", "arch"), ARCH_BITS.items())
def test_each_bit_is_one_compute_capability(bit, arch):
    assert read_header(rtx(bit)).archs == {arch}
    assert read_header(rtx(bit | 2)).archs == {arch, "sm_80"}


def test_a_plan_of_tensorrt_tells_its_version_and_no_architecture():
    header = PlanHeader(family="tensorrt", version=(10, 16, 1, 11), archs=None)
    assert read_header(ftrt()) == read_header(ftrt()[:28]) == header


@pytest.mark.parametrize(
    ("head", "field"),
    [
        pytest.param(b"", "magic", id="empty"),
        pytest.param(b"vtr", "magic", id="cut-in-the-magic"),
        pytest.param(b"\x08\x08" + bytes(62), "magic", id="an-onnx-file"),
        pytest.param(REAL_RTX[:39], "length", id="cut-in-the-mask"),
        pytest.param(ftrt()[:27], "length", id="cut-in-the-version"),
        pytest.param(b"ftrt\x01" + bytes(59), "serialization version", id="another-serialization"),
        pytest.param(ftrt((0, 16, 1, 11)), "version", id="version-0"),
        pytest.param(rtx(version=(0, 0, 0, 0)), "version", id="no-version"),
        pytest.param(rtx(0), "compute capabilities", id="for-no-architecture"),
        pytest.param(rtx(2 | 64), "compute capabilities", id="an-unknown-bit-beside-a-known-one"),
        pytest.param(rtx(1 << 63), "compute capabilities", id="the-last-bit"),
    ],
)
def test_what_is_no_header_is_refused_by_field_with_a_next_step(head, field):
    with pytest.raises(PlanHeaderError) as caught:
        read_header(head)
    assert caught.value.field_name == field
    assert "build it again" in str(caught.value)


def mutated(head, rng):
    """One of: bytes changed, bits flipped, cut, a piece of noise over the fields that are read."""
    data, kind = bytearray(head), rng.randrange(4)
    if kind == 0:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        at = rng.choice((*range(8), *range(24, 40)))
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del data[rng.randrange(len(data)) :]
    else:
        data[rng.choice((0, 4, 24, 32)) :][:8] = rng.randbytes(8)
        data[24:40] = rng.randbytes(16)
    return bytes(data)


def test_100_000_mutated_headers_are_refused_or_read_as_their_bytes_say():
    """Seeded. What is accepted is decoded a second time, by slices and not by the code under test."""
    rng = random.Random(20)
    accepted = refused = 0
    for number in range(MUTATIONS):
        head = mutated((REAL_RTX, ftrt(), rtx(48))[number % 3], rng)
        try:
            header = read_header(head)
        except PlanHeaderError:
            refused += 1
            continue
        accepted += 1
        assert head[:8] == {"tensorrt": b"ftrt", "tensorrt_rtx": b"vtrt"}[header.family] + bytes(4)
        assert bytes(header.version) == head[24:28]
        if header.family == "tensorrt_rtx":
            said = {arch for bit, arch in ARCH_BITS.items() if int.from_bytes(head[32:40], "little") & bit}
            assert header.archs == said
            assert head[33:40] == bytes(7)
    assert min(accepted, refused) > MUTATIONS / 20, "one side was hardly tried"


def test_no_mutated_header_passes_for_an_engine_that_it_is_not():
    """Whatever else changed: passing for sm_80 and 1.7.1.116 means that exactly these are in the bytes."""
    rng = random.Random(21)
    passed = 0
    for _ in range(MUTATIONS // 4):
        head = mutated(REAL_RTX, rng)
        try:
            check_plan(head, backend="tensorrt_rtx", arch="sm_80", backend_version="1.7.1.116")
        except (PlanHeaderError, PlanMismatchError):
            continue
        passed += 1
        assert (head[:8], head[24:28], head[32:40]) == (REAL_RTX[:8], REAL_RTX[24:28], REAL_RTX[32:40])
    assert passed > 0


SAID = {"backend": "tensorrt_rtx", "arch": "sm_80", "backend_version": "1.7.1.116"}


@pytest.mark.parametrize(
    ("head", "change", "field"),
    [
        pytest.param(REAL_RTX, {"arch": "sm_86"}, "arch", id="for-another-architecture"),
        pytest.param(rtx(2 | 4), {}, "arch", id="for-one-more-architecture"),
        pytest.param(REAL_RTX, {"backend_version": "1.7.1.117"}, "backend_version", id="another-build"),
        pytest.param(REAL_RTX, {"backend_version": "1.7.1"}, "backend_version", id="a-part-of-the-version"),
        pytest.param(REAL_RTX, {"backend": "tensorrt"}, "backend", id="of-the-other-family"),
        pytest.param(REAL_RTX, {"backend": "onnxruntime"}, "backend", id="a-plan-called-onnx"),
    ],
)
def test_a_plan_that_is_not_what_its_manifest_says_is_refused_with_what_to_build(head, change, field):
    check_plan(REAL_RTX, **SAID)
    with pytest.raises(PlanMismatchError) as caught:
        check_plan(head, **{**SAID, **change})
    assert caught.value.field_name == field
    assert f"build {field} {({**SAID, **change})[field]} again" in str(caught.value)


def test_an_onnx_file_in_the_place_of_a_plan_is_no_plan_and_on_its_own_backend_fine():
    onnx = b"\x08\x08\x12\x07pytorch" + bytes(HEAD_BYTES)
    with pytest.raises(PlanHeaderError, match="magic"):
        check_plan(onnx, **SAID)
    check_plan(onnx, backend="onnxruntime", arch="cpu-avx2", backend_version="1.32.0")


DOCUMENT = {**WHOLE, **SAID}
CHECKED = ("arch", "backend", "backend_version", "engine_sha256")


def mutated_text(text, rng):
    """One of: characters changed, a piece cut, a piece doubled, a value of another place put in."""
    kind, at = rng.randrange(4), rng.randrange(len(text))
    if kind == 0:
        return text[:at] + rng.choice('0123456789abcdef"{}[],:_. \\\x00é') + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at + rng.randint(1, 12) :]
    if kind == 2:
        return text[:at] + text[at : at + rng.randint(1, 12)] + text[at:]
    values = ("NaN", "1e999", "-1", "null", '"sm_86"', '"tensorrt"', "[]", "9" * 30, '"\\ud800"', "true")
    return text.replace(json.dumps(rng.choice(list(DOCUMENT.values()))), rng.choice(values), 1)


def test_mutated_manifests_are_refused_or_fail_against_the_file():
    """Seeded. A document that differs where a server looks never passes for the engine and the machine."""
    rng = random.Random(22)
    text = json.dumps(DOCUMENT)
    accepted = 0
    for _ in range(MUTATIONS // 4):
        changed = mutated_text(text, rng)
        try:
            manifest = EngineManifest.from_json(changed)
        except ManifestError:
            continue
        manifest.to_json()
        try:
            manifest.check_head(REAL_RTX)
            manifest.check(arch="sm_80", backend="tensorrt_rtx", engine_sha256=SHA)
        except (PlanMismatchError, PlanHeaderError, ManifestMismatchError):
            continue
        accepted += 1
        assert [getattr(manifest, name) for name in CHECKED] == [DOCUMENT[name] for name in CHECKED]
    assert accepted > 100, "hardly a document came through: nothing was compared"


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", "\ud800", b"\xff\xfe", "{" + '"a":' * 9 + "}"])
def test_text_that_is_no_manifest_is_one_error_of_ours(text):
    with pytest.raises(ManifestError) as caught:
        EngineManifest.from_json(text)
    assert isinstance(caught.value, FatalError)
