# SPDX-License-Identifier: Apache-2.0
"""Wilson's interval for a success rate."""

from __future__ import annotations

import math


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the lower and upper bound of a proportion, 95 % by default.

    Args:
        successes: out of `trials`.
        trials: at least 0; without trials the interval is (0, 1).
        z: standard normal quantile of the confidence wanted.

    Raises:
        ValueError: `successes` is not between 0 and `trials`.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f'{successes} successes of {trials} trials')
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    scale = 1.0 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / scale
    half = z * math.sqrt(rate * (1.0 - rate) / trials + z * z / (4 * trials * trials)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)
