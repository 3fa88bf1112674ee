"""Say how sure a share is."""

import math
from collections.abc import Sequence

WILSON = 1.96  # standard deviations of an interval of 95 %


def wilson(hits: Sequence[bool], name: str) -> dict[str, float]:
    """Compute a share, how many it is of (`_count`), and Wilson's interval of 95 % (`_low` and
    `_high`).
    """
    n, share = len(hits), sum(hits) / len(hits)
    scale = 1 + WILSON**2 / n
    middle = (share + WILSON**2 / (2 * n)) / scale
    reach = WILSON / scale * math.sqrt(share * (1 - share) / n + WILSON**2 / (4 * n * n))
    low, high = max(0.0, middle - reach), min(1.0, middle + reach)
    return {name: share, f"{name}_low": low, f"{name}_high": high, f"{name}_count": n}
