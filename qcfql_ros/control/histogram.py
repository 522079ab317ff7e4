# SPDX-License-Identifier: Apache-2.0
"""Durations of a whole run in a few kilobytes: quantiles without keeping the samples."""

from __future__ import annotations

_SUB_BITS = 4  # 16 buckets to a factor of two: a quantile is at most 1/16 too high
_SUB = 1 << _SUB_BITS
_BUCKETS = (64 - _SUB_BITS) * _SUB


class Histogram:
    """Counts of durations in ns, in logarithmic buckets of fixed number.

    One thread adds; others may read at any time and see a count that is a sample behind.
    """

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.max_ns = 0

    def add(self, duration_ns: int) -> None:
        """Count one duration; a negative one counts as 0."""
        duration_ns = max(0, duration_ns)
        self._counts[_bucket(duration_ns)] += 1
        self.count += 1
        if duration_ns > self.max_ns:
            self.max_ns = duration_ns

    def quantile(self, q: float) -> int:
        """Return the upper end in ns of the bucket that holds quantile `q`; 0 without samples."""
        rank = max(1, round(q * self.count))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= rank:
                return min(_upper_end(bucket), self.max_ns)
        return 0


def _bucket(value: int) -> int:
    shift = max(0, value.bit_length() - _SUB_BITS - 1)
    return min(shift * _SUB + (value >> shift), _BUCKETS - 1)


def _upper_end(bucket: int) -> int:
    shift = max(0, bucket // _SUB - 1)
    return ((bucket - shift * _SUB + 1) << shift) - 1
