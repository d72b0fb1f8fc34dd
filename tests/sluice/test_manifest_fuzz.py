"""A manifest that somebody changed is refused, or says what it said."""

import json
import random

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


def mutated(rng, text, paths):
    """The text with one thing changed: a character, a field gone, a value of another kind, the end cut off."""
    kind = rng.randrange(4)
    if kind == 0:
        at = rng.randrange(len(text))
        return text[:at] + rng.choice('0123456789abcdef"{}[],: -') + text[at + 1 :]
    if kind == 1:
        return text[: rng.randrange(len(text))]
    document = json.loads(text)
    *parents, last = rng.choice(paths)
    here = document
    for part in parents:
        here = here[part]
    if kind == 2:
        del here[last]
    else:
        here[last] = rng.choice(GARBAGE)
    return json.dumps(document)


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
    assert 1_000 < accepted < MUTATIONS / 2  # else the mutations touch nothing, or everything
