"""What no test can beat, and how sure a rate is.

The floor: a sequential probability ratio test that knows the bad version's rate and stable's exactly, spends the whole
alpha on the one question, and is looked at after every request, needs log(1/alpha) over the divergence of one request
on average to find it (Wald 1945). Ours knows neither rate nor kind nor place nor begin of the fault.
"""

from functools import lru_cache
from math import log
from typing import Final

from scipy.stats import beta

CONFIDENCE: Final = 0.95


@lru_cache(maxsize=65_536)
def clopper_pearson(count: int, many: int) -> tuple[float, float]:
    """The two-sided 95 % interval of a rate of which `count` of `many` were seen; (0, 1) for none."""
    if not 0 <= count <= many:
        raise ValueError(f"{count} of {many} is no count")
    if not many:
        return 0.0, 1.0
    tail = (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, count, many - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, many - count)) if count < many else 1.0
    return low, high


def sprt_floor(base: float, rho: float, alpha: float = 0.01) -> float:
    """Candidate requests that a test must see on average to find failures rho times as frequent. rho > 1."""
    worse = min(rho * base, 1.0)
    divergence = worse * log(worse / base)
    if worse < 1:
        divergence += (1 - worse) * log((1 - worse) / (1 - base))
    return log(1 / alpha) / divergence
