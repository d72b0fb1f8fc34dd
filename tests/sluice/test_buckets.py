"""Buckets are the gateway's: xxh64 of `salt:uid`, seed 0, modulo 10 000."""

import pytest

from sluice.buckets import BUCKETS, bucket, keeps, uid_hash
from sluice.errors import FatalError

_PRIMES = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
_ALL = (1 << 64) - 1


def _turn(value: int, by: int) -> int:
    return ((value << by) | (value >> (64 - by))) & _ALL


def _plain_xxh64(data: bytes) -> int:
    """xxh64 with seed 0 for inputs under 32 bytes, from its specification."""
    one, two, three, four, five = _PRIMES
    value = (five + len(data)) & _ALL
    while len(data) >= 8:
        lane = int.from_bytes(data[:8], "little")
        lane = _turn(lane * two & _ALL, 31) * one & _ALL
        value = (_turn(value ^ lane, 27) * one + four) & _ALL
        data = data[8:]
    if len(data) >= 4:
        value = (_turn(value ^ (int.from_bytes(data[:4], "little") * one & _ALL), 23) * two + three) & _ALL
        data = data[4:]
    for byte in data:
        value = _turn(value ^ (byte * five & _ALL), 11) * one & _ALL
    value = (value ^ (value >> 33)) * two & _ALL
    value = (value ^ (value >> 29)) * three & _ALL
    return value ^ (value >> 32)


def test_the_reference_in_this_test_gives_the_published_vectors():
    assert _plain_xxh64(b"") == 0xEF46DB3751D8E999
    assert _plain_xxh64(b"abc") == 0x44BC2CF5AD770999


@pytest.mark.parametrize("uid", ["u", "user-17", "0123456789abcdef", "Jürgen"])
def test_bucket_is_xxh64_of_salt_colon_uid_modulo_the_total(uid):
    assert bucket("v3", uid) == _plain_xxh64(f"v3:{uid}".encode()) % BUCKETS


def test_another_salt_draws_another_one_percent():
    """About 1 % of the 1 % is in both cohorts; unsalted hashing gives 100 %."""
    first = {f"u{i}" for i in range(100_000) if bucket("a", f"u{i}") < 100}
    both = {uid for uid in first if bucket("b", uid) < 100}
    assert len(both) < 0.05 * len(first)


def test_the_uid_hash_is_unsalted():
    assert uid_hash("abc") == 0x44BC2CF5AD770999


@pytest.mark.parametrize("name", [bucket, lambda salt, uid: uid_hash(uid)])
def test_an_empty_uid_has_no_bucket(name):
    with pytest.raises(FatalError, match="uid is empty"):
        name("s", "")


def test_thinning_keeps_its_share_and_the_same_ids_again():
    kept = [i for i in range(20_000) if keeps("s", f"r{i}", 0.5)]
    assert abs(len(kept) - 10_000) < 400
    assert kept == [i for i in range(20_000) if keeps("s", f"r{i}", 0.5)]
    assert all(keeps("s", f"r{i}", 1.0) for i in range(1000))
    assert set(kept) >= {i for i in range(20_000) if keeps("s", f"r{i}", 0.25)}
