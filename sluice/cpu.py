"""Names of CPU targets. An engine for one instruction set is refused by a machine without it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

# Best first: the first whose flags are all there is the machine's architecture.
ARCHS: Final[tuple[tuple[str, frozenset[str]], ...]] = (
    ("cpu-avx512vnni", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni"})),
    ("cpu-avx512", frozenset({"avx512f", "avx512bw", "avx512vl"})),
    ("cpu-avx2", frozenset({"avx2", "fma"})),
)


def cpu_arch(flags: Collection[str]) -> str:
    """The `cpu-<isa>` of a machine from the flags of its /proc/cpuinfo; `cpu-generic` without AVX2."""
    have = frozenset(flags)
    return next((name for name, need in ARCHS if need <= have), "cpu-generic")


def parse_cpuinfo(text: str) -> frozenset[str]:
    """The flags of the first processor in the text of /proc/cpuinfo; empty if it names none."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()
