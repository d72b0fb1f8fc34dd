"""Which of the 10 000 buckets a user falls into, exactly as the gateway decides it.

Problem: the controller must know, without asking the gateway, which side a user is on; otherwise a user's
event cannot be a coin of known bias.

Invariant: `bucket(salt, uid)` equals what Envoy computes for `weighted_clusters` with `use_hash_policy`, a
total of 10 000 and a header hash policy whose `regex_rewrite` makes `salt:uid` of the uid: xxh64, seed 0,
modulo the total.
"""

from typing import Final

import xxhash

from sluice.errors import FatalError

BUCKETS: Final = 10_000  # total weight of the hash line; one bucket is 0.01 % of the users


def bucket(salt: str, uid: str) -> int:
    """The user's bucket, 0 to 9999. Raises FatalError for an empty uid: such a request has no hash."""
    if not uid:
        raise FatalError("uid is empty, so it has no bucket", "route requests without a uid to stable")
    return xxhash.xxh64_intdigest(f"{salt}:{uid}".encode(), 0) % BUCKETS


def uid_hash(uid: str) -> int:
    """The name under which evidence keeps a user: 64 bits, unsalted, the same at every gateway."""
    if not uid:
        raise FatalError(
            "uid is empty, so it cannot be told from other users", "leave it out of the evidence"
        )
    return xxhash.xxh64_intdigest(uid.encode(), 0)


def keeps(salt: str, request_id: str, probability: float) -> bool:
    """Whether thinning keeps this request: true for a share `probability` of all request ids.

    A hash instead of a random draw, so that a replay of the same entries is bit-identical.
    """
    return xxhash.xxh64_intdigest(f"{salt}:thin:{request_id}".encode(), 0) < probability * 2.0**64
