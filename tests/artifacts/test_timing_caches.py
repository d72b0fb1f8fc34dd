"""A timing cache is found by card and library together, and each of its states can be named for ever."""

import pytest

from artifacts.store import ArtifactCorruptError, ArtifactMissingError, Store
from artifacts.timing_caches import TimingCaches
from sluice.digest import sha256_bytes

CARD = ("NVIDIA H100 80GB HBM3", 132, "8.6.0")


def test_the_newest_is_found_by_card_and_version_and_no_other(tmp_path):
    caches = TimingCaches(Store(tmp_path))
    assert caches.newest(*CARD) is None
    first = caches.keep(b"first", *CARD)
    second = caches.keep(b"second", *CARD)
    assert caches.newest(*CARD) == second == sha256_bytes(b"second")
    assert caches.read(first) == b"first"
    for name, count, version in (
        ("NVIDIA H100 PCIe", 132, "8.6.0"),
        (CARD[0], 114, "8.6.0"),
        (*CARD[:2], "10.9.0"),
    ):
        assert caches.newest(name, count, version) is None


def test_the_same_state_twice_is_one_artifact_and_the_newest_again(tmp_path):
    caches = TimingCaches(Store(tmp_path))
    first = caches.keep(b"first", *CARD)
    caches.keep(b"second", *CARD)
    assert caches.keep(b"first", *CARD) == first == caches.newest(*CARD)
    assert len(list((tmp_path / "timing_cache").iterdir())) == 2


@pytest.mark.parametrize(
    "said", [b"ab" * 32, b"", b"ab", b"\xff\xfe"], ids=["gone", "empty", "cut", "no-text"]
)
def test_a_pointer_to_nothing_is_a_cold_start(tmp_path, said):
    caches = TimingCaches(Store(tmp_path))
    digest = caches.keep(b"first", *CARD)
    (pointer,) = (tmp_path / ".timing_caches").iterdir()
    pointer.write_bytes(said)
    assert caches.newest(*CARD) is None
    assert caches.keep(b"first", *CARD) == digest == caches.newest(*CARD)


def test_whoever_may_read_the_artifacts_may_read_the_pointer(tmp_path):
    caches = TimingCaches(Store(tmp_path))
    digest = caches.keep(b"first", *CARD)
    (pointer,) = (tmp_path / ".timing_caches").iterdir()
    assert pointer.stat().st_mode == (tmp_path / "timing_cache" / digest / "cache.bin").stat().st_mode


def test_a_cache_that_is_gone_or_changed_is_never_replayed(tmp_path):
    caches = TimingCaches(Store(tmp_path))
    with pytest.raises(ArtifactMissingError):
        caches.read("ab" * 32)
    digest = caches.keep(b"first", *CARD)
    (tmp_path / "timing_cache" / digest / "cache.bin").write_bytes(b"other")
    with pytest.raises(ArtifactCorruptError):
        caches.read(digest)
