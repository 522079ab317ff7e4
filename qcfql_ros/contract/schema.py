# SPDX-License-Identifier: Apache-2.0
"""What a contract file says, as frozen values. `load.load_contract` makes and checks them."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property

from qcfql_ros.contract.observation import Entry, Stream
from qcfql_ros.contract.recordings import Recordings
from qcfql_ros.contract.topics import (
    CHUNK_TOPIC,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    STEP_TOPIC,
    absolute,
)
from qcfql_ros.errors import ContractError


@dataclass(frozen=True)
class Measured:
    """Where the present value of a commanded position is found: ``raw = value / scale - offset``.

    Attributes:
        stream: name of a JointState stream.
        index: place of the number in `DecodedMessage.values` of that stream.
        offset: of its entry in ``observation.state``.
        scale: of its entry; never 0.
    """

    stream: str
    index: int
    offset: float
    scale: float


@dataclass(frozen=True)
class CommandField:
    """One number of a command message: ``action * scale + offset``, its *command value*.

    Attributes:
        field: ``linear.x`` ... of a twist; ``position``, ``velocity`` or ``effort`` of a joint.
        name: the joint; empty for a twist.
        action: position of the number in the action row.
        scale: unit of the field per unit of action; never 0.
        offset: unit of the field.
        relative: of a position: ``''``, absolute; ``command``, added to the last position sent;
            ``measured``, added to the measured position.
        measured: where the present position is measured; None for what is no position.
    """

    field: str
    name: str
    action: int
    scale: float
    offset: float
    relative: str = ''
    measured: Measured | None = None

    @property
    def is_position(self) -> bool:
        """Whether the number is a place, which is held by repeating it, never by a zero."""
        return self.field == 'position'


@dataclass(frozen=True)
class Command:
    """One command topic; several of them, with equal stamps, carry one action row.

    Attributes:
        topic: relative topic name.
        type: message type; of a Float64MultiArray `fields` is the order of its numbers.
        frame_id: of the header, where there is one.
        fields: the numbers of the message.
        whole_chunk: a JointTrajectory that is sent once a chunk, with all its points.
    """

    topic: str
    type: str
    frame_id: str
    fields: tuple[CommandField, ...]
    whole_chunk: bool = False


@dataclass(frozen=True)
class Action:
    """The action row: `names` in order, limits inside [-1, 1], the row that holds the robot.

    `hold` is NaN for an absolute position, which is held where it is.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    hold: tuple[float, ...]
    commands: tuple[Command, ...]

    @property
    def dim(self) -> int:
        """Numbers in an action row."""
        return len(self.names)


@dataclass(frozen=True)
class Workspace:
    """The box that the tool must stay in.

    Attributes:
        stream: a PoseStamped stream that measures it.
        places: of x, y, z in `DecodedMessage.values` of that stream.
        offset, scale: of these entries: ``raw = value / scale - offset``.
        actions: places in the action row of the commanded linear x, y, z velocity; -1 for none.
        low, high: corners in m, in the frame of the stream.
    """

    stream: str
    places: tuple[int, int, int]
    offset: tuple[float, float, float]
    scale: tuple[float, float, float]
    actions: tuple[int, int, int]
    low: tuple[float, float, float]
    high: tuple[float, float, float]


@dataclass(frozen=True)
class Safety:
    """What the safety filter and the watchdogs keep to; no part of the hash.

    Limits are one number for each action, in the unit of its command value; infinite is none.

    Attributes:
        low, high: of the command value.
        velocity: of a position: most change in a second. Of anything else infinite.
        acceleration: of a position: most change of its velocity in a second. Of anything else:
            most change of the value in a second.
        workspace: for Cartesian velocities.
        soft_start_s: time over which commands are blended in from the measured pose after an
            activation or a resume.
        stop_after_s: a stream silent for this long beyond its max_age: stop holding.
        resume_after_stale: then begin anew when it is back; else wait for a resume.
        on_late: what is sent while a chunk is late: ``hold``, or ``repeat`` the last row.
        watchdog_timeout_s: a heartbeat missing for this long: `watchdog_node` sends the safe
            command; None where no watchdog is wanted.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]
    workspace: Workspace | None = None
    soft_start_s: float = 0.0
    stop_after_s: float = 1.0
    resume_after_stale: bool = False
    on_late: str = 'hold'
    watchdog_timeout_s: float | None = None


def no_limits(dim: int) -> Safety:
    """Return a Safety that limits nothing."""
    none = (math.inf,) * dim
    return Safety(tuple(-x for x in none), none, none, none)


def unless_default(got: tuple[object, ...], default: tuple[object, ...]) -> tuple[object, ...]:
    """Return `got`, or nothing where it is the default."""
    return () if got == default else got


@dataclass(frozen=True)
class OutcomeRule:
    """Where reward and ends come from.

    Attributes:
        topic: relative topic of the outcome message.
        success_timing: ``pre``, judged on the state before the step, or ``post``, after it.
        failure_reward: added to the reward of a step that terminates without success; None where
            the replay prices it by the run's own discount.
    """

    topic: str
    success_timing: str
    failure_reward: float | None


@dataclass(frozen=True)
class Contract:
    """How one robot's messages make observations, actions and outcomes.

    Attributes:
        file: where it was read from.
        name: name of the robot.
        rate_hz: control rate.
        phase: part of a period between a sensor message and the tick that acts on it (wall).
        stamp_tolerance_s: a stamp further than this from its receive stamp is an error.
        lateness_s: a step still incomplete this long after its message is given up.
        streams: sensor streams by name, in the file's order.
        state: the entries of ``observation.state`` in order.
        images: image topics by feature name; recorded only.
        action: the action row and its command messages.
        outcome: reward and ends.
        safety: limits, soft start, what to do when something fails.
        commands_per_tick: command messages a control period (wall pacing).
        upsampling: between two action rows: ``hold``, ``linear`` or ``cubic``.
        on_stop: the last command when the policy stops: ``hold``, the hold row; ``zero`` (no
            positions); ``ramp_down``, slow down within the limits first; ``none``.
        after_crash: ``wait`` or ``resume``.
        recordings: how bags that others recorded make steps; None where they make none.
    """

    file: str
    name: str
    rate_hz: float
    phase: float
    stamp_tolerance_s: float
    lateness_s: float
    streams: dict[str, Stream]
    state: tuple[Entry, ...]
    action: Action
    outcome: OutcomeRule
    safety: Safety
    images: dict[str, Stream] = field(default_factory=dict)
    commands_per_tick: int = 1
    upsampling: str = 'hold'
    on_stop: str = 'hold'
    after_crash: str = 'wait'
    recordings: Recordings | None = None

    @cached_property
    def period_ns(self) -> int:
        """One control period in ns."""
        return round(1e9 / self.rate_hz)

    @cached_property
    def state_dim(self) -> int:
        """Numbers in ``observation.state``."""
        return sum(entry.size for entry in self.state)

    @property
    def state_names(self) -> tuple[str, ...]:
        """A name for each number of ``observation.state``."""
        return tuple(name for entry in self.state for name in entry.output_names)

    @cached_property
    def wants_previous(self) -> bool:
        """Whether the action executed before is part of ``observation.state``."""
        return any(entry.is_previous for entry in self.state)

    @property
    def action_dim(self) -> int:
        """Numbers in an action row."""
        return self.action.dim

    @property
    def success_timing(self) -> str:
        """``pre`` or ``post``; see `OutcomeRule`."""
        return self.outcome.success_timing

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) over all that changes the meaning of a step.

        Left out: the names of file and robot, what the robot does when something fails
        (max_age_s, hold, safety, on_stop, after_crash), and images, which learning does not see.
        What came to the format later is there only where it is not the default, so that hashes
        from before it stay true.
        """
        meaning: dict[str, object] = {
            'contract': 1,
            'control': [
                self.period_ns,
                self.phase,
                self.stamp_tolerance_s,
                self.lateness_s,
                *unless_default((self.commands_per_tick, self.upsampling), (1, 'hold')),
            ],
            'streams': {s.name: [s.topic, s.type] for s in self.streams.values()},
            'state': [
                [
                    e.stream,
                    e.field,
                    e.names,
                    e.form,
                    e.offset,
                    e.scale,
                    *unless_default((e.index, e.length), ((), 0)),
                ]
                for e in self.state
            ],
            'action': [self.action.names, self.action.low, self.action.high],
            'commands': [
                [
                    c.topic,
                    c.type,
                    c.frame_id,
                    [
                        [
                            f.field,
                            f.name,
                            f.action,
                            f.scale,
                            f.offset,
                            *unless_default((f.relative,), ('',)),
                        ]
                        for f in c.fields
                    ],
                    *unless_default((c.whole_chunk,), (False,)),
                ]
                for c in self.action.commands
            ],
            'outcome': [
                self.outcome.topic,
                self.outcome.success_timing,
                self.outcome.failure_reward,
            ],
        }
        if self.wants_previous:  # the hold row stands for the previous one where there was none
            hold = [None if math.isnan(number) else number for number in self.action.hold]
            meaning['hold'] = hold
        if self.recordings is not None:
            meaning['recordings'] = self.recordings.meaning()
        text = json.dumps(meaning, sort_keys=True, separators=(',', ':'), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def recorded_topics(self, namespace: str = '') -> dict[str, str]:
        """Return absolute topic name to message type of all that a recording holds."""
        topics = {s.topic: s.type for s in self.streams.values()}
        topics |= {image.topic: image.type for image in self.images.values()}
        topics |= {command.topic: command.type for command in self.action.commands}
        topics |= {self.outcome.topic: JOINT_STATE}
        topics |= {STEP_TOPIC: JOINT_STATE, CHUNK_TOPIC: JOINT_TRAJECTORY}
        return {absolute(topic, namespace): kind for topic, kind in topics.items()}

    def require_no_images_for_training(self) -> None:
        """Refuse to train from images; they are recorded only.

        Raises:
            ContractError: the contract names an image feature.
        """
        if self.images:
            raise ContractError(
                f'{self.file}: training on images is not supported yet: remove '
                f'{", ".join(self.images)} from features (they can be recorded without training)'
            )

    def require_stamps(self) -> None:
        """Refuse lockstep, in which all streams of a tick carry its stamp.

        Raises:
            ContractError: a stream's messages have no stamp.
        """
        for stream in self.streams.values():
            if not stream.stamped:
                raise ContractError(
                    f'{self.file}: streams.{stream.name}.type: {stream.type} has no header, and '
                    'in lockstep the stamp says which tick a message belongs to: take a stamped '
                    'type, or pacing wall'
                )
