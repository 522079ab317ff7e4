# SPDX-License-Identifier: Apache-2.0
"""Limits of one number, command by command: positions that can always stop in time, and slew.

Plain Python numbers: for the few numbers of a robot they cost less than arrays do.
"""

from __future__ import annotations

import math

# A limit is met if it is exceeded by no more than this: relative to a velocity or an acceleration
# limit, and in units of position where two positions are subtracted. Rounding is far below it.
RELATIVE_TOLERANCE = 1e-9
POSITION_TOLERANCE = 1e-12
UNLIMITED = 1e12  # finite, so that no difference of infinities can come up


def braking_speed(distance: float, step: float, period_s: float) -> float:
    """Return the fastest speed for the next period from which one can still stop at `distance`.

    Exact for velocities that change once a period: with D = distance / (step * period), the
    speeds (n + f), (n - 1 + f), ..., f, 0 in steps cover D where n (n + 1) / 2 <= D is the largest
    such n, and f = D / (n + 1) - n / 2.

    Args:
        distance: left to go, with its sign.
        step: most change of the velocity in a period, unit/s.
        period_s: between two commands.

    Returns:
        Velocity in unit/s, with the sign of `distance`.
    """
    units = abs(distance) / (step * period_s)
    whole = math.floor((math.sqrt(1.0 + 8.0 * units) - 1.0) / 2.0)
    speed = (units / (whole + 1.0) + whole / 2.0) * step
    return math.copysign(speed, distance)


class PositionLimit:
    """Follows wanted positions as closely as velocity, acceleration and place allow.

    What can be followed exactly is passed exactly. Else it approaches with the fastest speed from
    which it can still stop where the wanted position will be, so that it neither overshoots nor
    swings about it.

    Args:
        low, high: of the position.
        velocity: most change in a second.
        acceleration: most change of the velocity in a second.
        period_s: between two commands.

    Attributes:
        value: the position sent last.
        speed: with which it was reached, unit/s.
    """

    __slots__ = (
        '_brake',
        '_highest',
        '_period',
        '_step',
        '_wanted',
        'high',
        'low',
        'speed',
        'value',
    )

    def __init__(
        self, low: float, high: float, velocity: float, acceleration: float, period_s: float
    ) -> None:
        self.low = max(low, -UNLIMITED)
        self.high = min(high, UNLIMITED)
        self._period = period_s
        self._brake = min(acceleration, UNLIMITED) * period_s
        self.set_limits(velocity, acceleration)
        self.start(0.0)

    def set_limits(self, velocity: float, acceleration: float) -> None:
        """Change them from the next command on, to at most those given at first.

        Whoever moves faster than that slows down with the new acceleration; only where the end
        of the place is too near for it, with the first one.
        """
        self._highest = min(velocity, UNLIMITED)
        self._step = min(acceleration, UNLIMITED) * self._period

    def start(self, value: float) -> None:
        """Be at rest at `value`, also where that is outside the limits."""
        self.value = self._wanted = value
        self.speed = 0.0

    def stay(self) -> float:
        """Stop at once where the last command was."""
        self._wanted = self.value
        self.speed = 0.0
        return self.value

    def slow_down(self) -> float:
        """Return the next position of coming to rest as fast as the limits allow."""
        speed = max(0.0, abs(self.speed) - self._step)
        position = self.value + math.copysign(speed, self.speed) * self._period
        position = self._inside(position)
        self.speed = (position - self.value) / self._period if speed else 0.0
        self.value = self._wanted = position
        return position

    def restore(self, value: float, speed: float) -> None:
        """Go back to a command computed ahead that was the last one carried out."""
        self.value = self._wanted = value
        self.speed = speed

    def follow(self, wanted: float) -> float:
        """Return what to send instead of `wanted`; the very number if the limits allow it."""
        wanted = min(max(wanted, self.low), self.high)
        before, self._wanted = self._wanted, wanted
        period, value = self._period, self.value
        own = (wanted - before) / period  # of what is followed
        if abs(own) > self._highest:
            own = 0.0
        speed = (wanted - value) / period
        # Arriving faster than one can adapt to what is followed would be followed by overshoot.
        if (before == value or abs(speed - own) <= self._step) and self._allows(speed, wanted):
            self.speed = speed
            self.value = wanted
            return wanted
        speed = own + braking_speed(wanted - own * period - value, self._step, period)
        speed = min(max(speed, -self._highest), self._highest)
        speed = min(max(speed, self.speed - self._step), self.speed + self._step)
        # The place goes before everything else, also before the acceleration.
        speed = min(speed, self._towards(self.high - value, self.speed))
        speed = max(speed, -self._towards(value - self.low, -self.speed))
        # Started outside, there is only the way in, and it is no faster than any other.
        fastest = max(self._highest, abs(self.speed) - self._step)
        speed = min(max(speed, -fastest), fastest)
        position = self._inside(value + speed * period)
        self.speed = (position - value) / period
        self.value = position
        return position

    def _towards(self, room: float, speed: float) -> float:
        """Return the fastest speed towards an end that is `room` away, moving with `speed` now."""
        fastest = braking_speed(room, self._step, self._period)
        if room <= 0.0 or speed - self._step <= fastest:
            return fastest
        hardest = braking_speed(room, self._brake, self._period)
        return min(hardest, max(fastest, speed - self._brake))

    def _allows(self, speed: float, wanted: float) -> bool:
        rounding = POSITION_TOLERANCE * max(1.0, abs(wanted)) / self._period
        if abs(speed) > self._highest * (1.0 + RELATIVE_TOLERANCE) + rounding:
            return False
        if abs(speed - self.speed) > self._step * (1.0 + RELATIVE_TOLERANCE) + 2.0 * rounding:
            return False
        # Stopping takes less than the continuous distance v^2 / 2a.
        room = self.high - wanted if speed > 0.0 else wanted - self.low
        if speed * speed * self._period <= 2.0 * self._step * room:
            return True
        end = self.high if speed > 0.0 else self.low
        return abs(speed) <= abs(braking_speed(end - self.value, self._step, self._period)) + (
            self._step * RELATIVE_TOLERANCE + rounding
        )

    def _inside(self, position: float) -> float:
        """Clip, unless it is on its way in from outside."""
        if position > self.high:
            return min(position, max(self.high, self.value))
        if position < self.low:
            return max(position, min(self.low, self.value))
        return position


class SlewLimit:
    """Velocities and efforts: inside the limits, and no faster change than allowed.

    Args:
        low, high: of the value.
        acceleration: most change in a second.
        period_s: between two commands.
        rest: the value of the hold row.

    Attributes:
        value: sent last.
    """

    __slots__ = ('_period', '_step', 'high', 'low', 'rest', 'value')

    def __init__(
        self, low: float, high: float, acceleration: float, period_s: float, rest: float
    ) -> None:
        self.low, self.high = low, high
        self.rest = rest
        self._period = period_s
        self.set_limits(math.inf, acceleration)
        self.start(rest)

    def set_limits(self, velocity: float, acceleration: float) -> None:
        """Change the slew limit from the next command on; `velocity` is for positions."""
        self._step = acceleration * self._period

    def start(self, value: float) -> None:
        """Begin with `value`."""
        self.value = value

    def restore(self, value: float, speed: float) -> None:
        """Go back to a command computed ahead; `speed` is for positions."""
        self.value = value

    def stay(self) -> float:
        """Be at rest at once."""
        self.value = self.rest
        return self.value

    def slow_down(self) -> float:
        """Return the next value on the way to rest."""
        return self.follow(self.rest)

    def follow(self, wanted: float) -> float:
        """Return what to send instead of `wanted`; the very number if the limits allow it."""
        wanted = min(max(wanted, self.low), self.high)
        change = wanted - self.value
        if abs(change) > self._step * (1.0 + RELATIVE_TOLERANCE):
            wanted = self.value + math.copysign(self._step, change)
            wanted = min(max(wanted, self.low), self.high)
        self.value = wanted
        return wanted
