"""A manifest that somebody changed is refused, or says what it said."""

import copy
import json
import random

import pytest

from sluice.manifest import EngineManifest, ManifestError, ManifestMismatchError
from sluice.plan import PlanHeaderError, PlanMismatchError
from tests.sluice.test_manifest import SHA, WHOLE

MUTATIONS = 100_000
BINDING = ("arch", "backend", "engine_sha256", "backend_version")
GARBAGE = (
    None,
    True,
    -1,
    1.5,
    "",
    "x",
    [],
    {},
    [[]],
    {"a": {"b": []}},
    "\x00",
    "9" * 70,
    "ab" * 32,
    float("1e308"),
)
HERE = {"arch": "sm_80", "backend": "tensorrt", "engine_sha256": SHA}
PLAN = {**WHOLE, "backend_version": "10.16.1.11"}
HEAD = b"ftrt" + bytes(20) + bytes((10, 16, 1, 11)) + bytes(36)


def places(value, path=()):
    """Every place in the document that can be changed."""
    yield path
    if isinstance(value, dict):
        for name, item in value.items():
            yield from places(item, (*path, name))
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*path, index))


def garbage(rng, depth=0):
    """A value of any kind, lists and mappings of garbage among them."""
    kind = rng.randrange(12)
    if kind == 0 and depth < 5:
        return [garbage(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 1 and depth < 5:
        return {
            rng.choice(("name", "min", "y", "")): garbage(rng, depth + 1) for _ in range(rng.randrange(4))
        }
    return copy.deepcopy(rng.choice(GARBAGE))  # an edit after may reach into it


def digit_changed(rng, text):
    at = rng.choice([at for at, one in enumerate(text) if one.isdigit()])
    return text[:at] + rng.choice("0123456789") + text[at + 1 :]


def edited(rng, text, paths):
    """One field gone, or a value of another kind in its place, up to three times."""
    document = json.loads(text)
    for path in rng.sample(paths, rng.randrange(1, 4)):
        *parents, last = path
        try:
            here = document
            for part in parents:
                here = here[part]
            if rng.randrange(2):
                del here[last]
            else:
                here[last] = garbage(rng)
        except (LookupError, TypeError):
            continue  # an edit before took the place away
    return json.dumps(document)


def mutated(rng, text, paths):
    """The text with a character or a digit changed, with edited fields, or with the end cut off."""
    kind = rng.randrange(4)
    if kind == 0:
        at = rng.randrange(len(text))
        return text[:at] + rng.choice('0123456789abcdef"{}[],: -') + text[at + 1 :]
    if kind == 1:
        return text[: rng.randrange(len(text))]
    return digit_changed(rng, text) if kind == 2 else edited(rng, text, paths)


def refused(manifest):
    """Whether a server on the machine of the original refuses it."""
    try:
        manifest.check(**HERE)
        manifest.check_head(HEAD)
    except (ManifestMismatchError, PlanMismatchError, PlanHeaderError):
        return True
    return False


def test_100_000_mutated_manifests_are_refused_or_bind_what_the_original_binds():
    rng, text = random.Random(11), json.dumps(PLAN)
    paths = [path for path in places(PLAN) if path]
    original = EngineManifest.from_json(text)
    assert not refused(original)
    accepted = 0
    for _ in range(MUTATIONS):
        changed = mutated(rng, text, paths)
        try:
            manifest = EngineManifest.from_json(changed)
        except ManifestError:
            continue
        accepted += 1
        bound = all(getattr(manifest, name) == getattr(original, name) for name in BINDING)
        assert bound or refused(manifest), changed
        if accepted % 50 == 0:
            assert EngineManifest.from_json(manifest.to_json()) == manifest
    assert 1_000 < accepted < MUTATIONS / 2  # else the mutations touch nothing, or everything


@pytest.mark.parametrize("depth", [50, 250, 260, 1_000, 100_000])
@pytest.mark.parametrize("name", ["accuracy", "device", "profiles", "arch"])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"y":', "}")], ids=["lists", "mappings"])
def test_garbage_of_any_depth_is_refused_or_read_and_written_again(depth, name, left, right):
    nested = '{"y":' + left * depth + "0" + right * depth + "}"
    text = json.dumps({**PLAN, name: "@"}).replace('"@"', nested)
    try:
        manifest = EngineManifest.from_json(text)
    except ManifestError:
        return
    assert EngineManifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff\xfe{", id="no-text"),
        pytest.param(b"", id="empty"),
        pytest.param(json.dumps(PLAN).replace("61.5", "1e999"), id="infinite"),
        pytest.param(json.dumps(PLAN).replace("61.5", "9" * 5_000), id="a-number-of-5000-digits"),
        pytest.param({**PLAN, 3: 4}, id="no-name"),
        pytest.param({**PLAN, "device": {"a": object()}}, id="no-json-value"),
        pytest.param({**PLAN, "service": "\ud800"}, id="half-a-character"),
        pytest.param([1], id="a-list"),
        pytest.param(None, id="nothing"),
    ],
)
def test_what_is_no_document_at_all_is_a_manifest_error(data):
    with pytest.raises(ManifestError):
        EngineManifest.from_json(data)


@pytest.mark.parametrize("name", BINDING)
def test_a_field_that_binds_is_refused_when_it_is_changed(name):
    """What the many mutations rely on, one by one."""
    other = {"arch": "sm_86", "backend": "onnxruntime", "engine_sha256": "cd" * 32}
    manifest = EngineManifest.from_json({**PLAN, name: other.get(name, "10.16.1.12")})
    assert refused(manifest)
