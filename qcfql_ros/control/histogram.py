# SPDX-License-Identifier: Apache-2.0
"""Durations of a whole run in 15 kilobytes: quantiles without keeping the samples."""

from __future__ import annotations

from array import array

_SUB_BITS = 5  # 32 buckets to a factor of two: a quantile is at most 1/32 too high
_SUB = 1 << _SUB_BITS
_BUCKETS = (64 - _SUB_BITS) * _SUB


class Histogram:
    """Counts of durations in ns, in logarithmic buckets of fixed number.

    One thread adds, and adding allocates nothing that stays; others may read at any time and see
    a count that is a sample behind.

    Attributes:
        counts: samples in each bucket; always the same array.
        count: of all samples.
        max_ns: the longest.
    """

    __slots__ = ('count', 'counts', 'max_ns')

    def __init__(self) -> None:
        self.counts = array('Q', bytes(8 * _BUCKETS))
        self.count = 0
        self.max_ns = 0

    def add(self, duration_ns: int) -> None:
        """Count one duration; a negative one counts as 0."""
        if duration_ns < 0:
            duration_ns = 0
        # A bucket is a factor of two and the five bits below the highest one.
        shift = duration_ns.bit_length() - _SUB_BITS - 1
        if shift <= 0:
            bucket = duration_ns
        else:
            bucket = min(shift * _SUB + (duration_ns >> shift), _BUCKETS - 1)
        self.counts[bucket] += 1
        self.count += 1
        if duration_ns > self.max_ns:
            self.max_ns = duration_ns

    def quantile(self, q: float) -> int:
        """Return the upper end in ns of the bucket that holds quantile `q`; 0 without samples."""
        rank = max(1, round(q * self.count))
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if count and seen >= rank:
                return min(_upper_end(bucket), self.max_ns)
        return 0

    def snapshot(self) -> Histogram:
        """Return a copy, to compare a later state with."""
        copy = Histogram()
        copy.counts[:] = self.counts
        copy.count = sum(copy.counts)  # of the copy, which the adding thread cannot change
        copy.max_ns = self.max_ns
        return copy

    def since(self, earlier: Histogram) -> Histogram:
        """Return what was added after the snapshot `earlier`.

        Its `max_ns` is the upper end of the highest bucket in use: the maximum itself is kept
        for the whole run only.
        """
        interval = self.snapshot()
        for bucket, count in enumerate(earlier.counts):
            if count:
                interval.counts[bucket] -= count
        interval.count -= earlier.count
        if earlier.count:
            highest = max((b for b, count in enumerate(interval.counts) if count), default=None)
            end_ns = 0 if highest is None else _upper_end(highest)
            interval.max_ns = min(end_ns, self.max_ns)
        return interval

    def merge(self, other: Histogram) -> None:
        """Add all samples of `other`."""
        for bucket, count in enumerate(other.counts):
            if count:
                self.counts[bucket] += count
        self.count += other.count
        self.max_ns = max(self.max_ns, other.max_ns)


def _upper_end(bucket: int) -> int:
    shift = max(0, bucket // _SUB - 1)
    return ((bucket - shift * _SUB + 1) << shift) - 1
