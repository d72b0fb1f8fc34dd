"""One spelling for everything that is hashed.

Problem: a key is only as good as its bytes: the same inputs must give the same key on every machine, in every
process, whatever the order in which a mapping was filled. Invariant: keys sorted, no spaces, UTF-8, no NaN or
infinity; equal values give equal bytes.
"""

import hashlib
import json
import re
from typing import Any, Final

SHA256: Final = re.compile(r"[0-9a-f]{64}")


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value. ValueError on NaN and infinity, TypeError on what JSON lacks."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def sha256_bytes(data: bytes) -> str:
    """64 lowercase hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of the canonical spelling, 64 lowercase hex digits; errors as `canonical_json`."""
    return sha256_bytes(canonical_json(value))


def is_sha256(text: object) -> bool:
    """True for a str of exactly 64 lowercase hex digits."""
    return isinstance(text, str) and SHA256.fullmatch(text) is not None
