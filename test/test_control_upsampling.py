# SPDX-License-Identifier: Apache-2.0
"""Several commands a tick, whole chunks, and what is recorded of them."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from control_parts import PERIOD_NS, POINT, Sent, joint_contract
from hypothesis import given
from hypothesis import strategies as st

from qcfql_ros.control.chunk_buffer import PlannedChunk
from qcfql_ros.control.commander import Commander
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.measured import Measurement
from qcfql_ros.control.tuning import Tuning, TuningBox
from qcfql_ros.control.upsampling import Upsampler
from qcfql_ros.data.steps import Source
from qcfql_ros.errors import ContractError

PERIOD_S = PERIOD_NS * 1e-9
M = 5
numbers = st.floats(-2.0, 2.0)


class Desk:
    """A commander that a test calls in the driver's place."""

    def __init__(self, contract, place=0.1, tuning=None):
        self.contract = contract
        self.sent = Sent()
        self.counters = Counters()
        self.commander = Commander(contract, self.sent, self.counters, False, tuning=tuning)
        self.place = Measurement((place,) * contract.action_dim)
        self.commander.start(self.place, soft=False)
        self.tick = 0
        self.chunks = 0

    def stamp(self, command=0):
        return self.tick * PERIOD_NS + command * PERIOD_NS // self.commander.commands

    def go_on(self, commands=None):
        for command in range(1, commands or self.commander.commands):
            self.commander.go_on(self.stamp(command), command)

    def play(self, rows, count=None, played=None, measured=None, commands=None):
        """Play the first `count` rows of a chunk; of the last one only some `commands`."""
        rows = np.asarray(rows, np.float32)
        chunk = PlannedChunk(rows, self.chunks, 0, 0, '0' * 64, 1, {})
        self.chunks += 1
        count = len(rows) if count is None else count
        for i in range(count):
            following = rows[i + 1] if i + 1 < len(rows) else None
            where = measured or self.place
            self.commander.play(self.stamp(), chunk, i, played, following, where)
            self.go_on(commands if i == count - 1 else None)
            if commands is None or i < count - 1:
                self.tick += 1

    def values(self, joint=0):
        return [values[joint] for _, values in self.sent.commands]

    def rows(self, joint=0):
        return [float(step.action[joint]) for step in self.sent.steps]


def one_joint(kind, **changes):
    return joint_contract(joints=1, commands=M, upsampling=kind, **changes)


def value(row):
    return float(np.float32(row)) * 2.0 + 0.1


@pytest.mark.parametrize('kind', ['hold', 'linear', 'cubic'])
@given(st.lists(st.floats(-1.0, 1.0, width=32), min_size=1, max_size=12))
def test_with_its_last_command_a_tick_reaches_its_row_and_records_it_bit_for_bit(kind, rows):
    desk = Desk(one_joint(kind))
    desk.play([[row] for row in rows])
    assert desk.values()[M - 1 :: M] == [value(row) for row in rows]
    assert desk.rows() == rows
    assert len(desk.sent.commands) == M * len(rows) == desk.counters.commands
    assert desk.counters.ticks == len(rows)


def test_hold_repeats_the_new_value_and_linear_moves_evenly_from_the_last():
    desk = Desk(one_joint('hold'))
    desk.play([[0.5], [-0.5]])
    assert desk.values() == [value(0.5)] * M + [value(-0.5)] * M
    desk = Desk(one_joint('linear'))
    desk.play([[0.5], [-0.5]])
    assert desk.values() == pytest.approx(
        [0.1 + 0.2 * i for i in range(1, 6)] + [1.1 - 0.4 * i for i in range(1, 6)]
    )


def test_commands_are_stamped_evenly_and_the_step_comes_with_the_last():
    desk = Desk(one_joint('linear'))
    desk.play([[0.5], [-0.5]])
    stamps = [entry[1] for entry in desk.sent.wire if entry[0] == 'command']
    assert stamps == [PERIOD_NS * i // M for i in range(2 * M)]
    kinds = [entry[0] for entry in desk.sent.wire]
    assert kinds == (['command'] * M + ['step']) * 2
    assert [step.stamp_ns for step in desk.sent.steps] == [0, PERIOD_NS]
    assert len(desk.sent.chunks) == 1


@given(st.lists(numbers, min_size=4, max_size=12), st.integers(1, 3))
def test_the_velocity_of_cubic_is_continuous_within_and_across_chunks(places, last_known):
    """Compare finely spaced commands on both sides of each row; a chunk ends at some of them."""
    fine = 1000
    upsampler = Upsampler('cubic', fine, 1)
    upsampler.start([0.0])
    path = [0.0]
    for i, place in enumerate(places):
        known = i + 1 < len(places) and i % 4 != last_known
        upsampler.begin([place], [places[i + 1]] if known else None)
        path += [upsampler.at(j)[0] for j in range(fine)]
    change = np.diff(path) * fine
    jumps = np.abs(np.diff(change))
    # With a continuous velocity a jump is one step of an acceleration, at most 6 * 4 + 4 * 4 * 2.
    assert jumps.max() <= 60.0 / fine


def test_cubic_passes_a_row_with_the_slope_between_its_neighbours():
    fine = 10_000
    upsampler = Upsampler('cubic', fine, 1)
    upsampler.start([0.0])
    upsampler.begin([1.0], [4.0])
    ahead = [upsampler.at(j)[0] for j in range(fine)]
    assert (ahead[-1] - ahead[-2]) * fine == pytest.approx(2.0, abs=1e-2)
    upsampler.begin([4.0], None)
    behind = [1.0, *(upsampler.at(j)[0] for j in range(fine))]
    assert (behind[1] - behind[0]) * fine == pytest.approx(2.0, abs=1e-2)
    assert (behind[-1] - behind[-2]) * fine == pytest.approx(0.0, abs=1e-2)


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(ContractError, match=r"'quartic'.*cubic, hold, linear"):
        Upsampler('quartic', 2, 1)


@pytest.mark.parametrize('kind', ['hold', 'linear', 'cubic'])
def test_a_relative_row_is_spread_over_its_tick(kind):
    desk = Desk(one_joint(kind, relative='command'))
    desk.play([[0.25], [-0.5], [0.125]])
    assert desk.values()[M - 1 :: M] == pytest.approx([0.6, -0.4, -0.15])
    assert desk.rows() == [0.25, -0.5, 0.125]
    if kind == 'linear':
        steps = np.diff([0.1, *desk.values()])
        assert steps == pytest.approx(np.repeat([0.1, -0.2, 0.05], M))


def test_a_tick_relative_to_the_measured_begins_there_and_not_where_the_last_one_ended():
    desk = Desk(one_joint('linear', relative='measured'))
    desk.play([[0.25]])
    desk.play([[0.25]], measured=Measurement((0.4,)))  # the robot has not come as far as 0.6
    assert desk.values()[M:] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert desk.rows() == [0.25, 0.25]


def test_every_command_passes_the_limits_and_the_record_is_what_was_reached():
    desk = Desk(one_joint('linear', velocity=4.0))  # 0.2 a tick
    desk.play([[0.5], [0.5]])
    steps = np.diff([0.1, *desk.values()])
    assert np.abs(steps).max() <= 4.0 * PERIOD_S / M * (1 + 1e-8)
    assert desk.rows() == pytest.approx([0.1, 0.2])
    assert [step.clipped for step in desk.sent.steps] == [1, 1]
    assert desk.counters.clipped == 2


def test_a_halt_in_the_middle_of_a_tick_is_sent_at_the_next_command_time_and_is_that_tick():
    desk = Desk(one_joint('linear'))
    desk.play([[0.5], [-0.5]], count=2, commands=2)
    before = desk.values()[-1]
    desk.commander.hold(desk.stamp(2), 0, Source.HALT)
    assert desk.sent.wire[-2] == ('rest', desk.stamp(2), [before])
    last = desk.sent.steps[-1]
    assert (last.source, last.stamp_ns, last.chunk) == (Source.HALT, PERIOD_NS, -1)
    assert float(last.action[0]) == np.float32((before - 0.1) / 2.0)
    desk.commander.go_on(desk.stamp(3), 3)
    assert len(desk.sent.steps) == 2  # it is over
    assert desk.counters.ticks == 2


def test_a_tick_whose_last_commands_were_missed_records_how_far_it_came():
    desk = Desk(one_joint('linear'))
    desk.play([[0.5]], commands=3)
    assert desk.sent.steps == []
    desk.commander.finish()
    assert desk.rows() == pytest.approx([(0.7 - 0.1) / 2])
    assert desk.values()[-1] == pytest.approx(0.7)


def test_a_tick_that_begins_late_leaves_out_the_commands_whose_time_is_over():
    desk = Desk(one_joint('linear'))
    chunk = PlannedChunk(np.array([[0.5]], np.float32), 0, 0, 0, '0' * 64, 1, {})
    desk.commander.play(0, chunk, 0, None, None, desk.place, command=3)
    desk.commander.go_on(desk.stamp(4), 4)
    assert desk.values() == pytest.approx([0.9, 1.1])
    assert [c[0] for c in desk.sent.commands] == [desk.stamp(3), desk.stamp(4)]
    assert desk.rows() == [0.5]


def test_while_a_chunk_is_late_the_robot_holds_or_repeats_as_the_contract_says():
    desk = Desk(joint_contract(joints=1, relative='command'))
    desk.play([[0.25]])
    desk.commander.late(desk.stamp(), 0, desk.place)
    assert desk.values() == pytest.approx([0.6, 0.6])
    assert (desk.counters.holds, desk.counters.repeats) == (1, 0)

    desk = Desk(joint_contract(joints=1, relative='command', on_late='repeat'))
    desk.commander.late(0, 0, desk.place)
    assert desk.values() == [0.1]  # there is no row to repeat yet
    desk.play([[0.25]])
    desk.commander.late(desk.stamp(), 0, desk.place)
    assert desk.values()[1:] == pytest.approx([0.6, 1.1])
    assert (desk.counters.holds, desk.counters.repeats) == (1, 1)
    last = desk.sent.steps[-1]
    assert (last.source, last.chunk, float(last.action[0])) == (Source.HOLD, -1, 0.25)


def test_tuning_takes_effect_when_the_next_chunk_begins():
    box = TuningBox()
    desk = Desk(joint_contract(joints=1, velocity=1.0), tuning=box)
    chunk = PlannedChunk(np.ones((2, 1), np.float32), 0, 0, 0, '0' * 64, 1, {})
    desk.commander.play(0, chunk, 0, measured=desk.place)
    box.wanted = Tuning(limits_scale=0.5, on_late='repeat')
    desk.commander.play(PERIOD_NS, chunk, 1, measured=desk.place)
    desk.commander.play(2 * PERIOD_NS, chunk, 0, measured=desk.place)
    steps = np.diff([0.1, *desk.values()])
    assert steps == pytest.approx([0.05, 0.05, 0.025])
    desk.commander.late(3 * PERIOD_NS, 0, desk.place)
    assert desk.counters.repeats == 1


def whole(**changes):
    return joint_contract(joints=2, whole_chunk=True, **changes)


def test_a_whole_chunk_is_sent_once_with_the_velocities_between_its_rows():
    desk = Desk(whole())
    rows = np.array([[0.0, 0.1], [0.1, 0.1], [0.3, 0.1], [0.4, 0.1]])
    desk.play(rows, played=3, count=3)
    kinds = [entry[0] for entry in desk.sent.wire]
    assert kinds.count('trajectory') == 1
    assert kinds[0] == 'trajectory'
    _, stamp_ns, values, velocities = desk.sent.wire[0]
    assert stamp_ns == 0
    assert values[:, 0] == pytest.approx([0.1, 0.3, 0.7])  # of four rows three are played
    # From 0.1, where the robot is: (0.3 - 0.1) / 2P, (0.7 - 0.1) / 2P, and at the end (0.4) / P.
    assert velocities[:, 0] == pytest.approx([2.0, 6.0, 8.0])
    assert desk.rows() == [float(np.float32(row)) for row in rows[:3, 0]]
    assert len(desk.sent.chunks[0].actions) == 4
    desk.play([[0.5, 0.1]])
    assert desk.sent.wire[-3][3][0, 0] == pytest.approx((1.1 - 0.7) / PERIOD_S)


def test_a_whole_chunk_is_filtered_ahead_and_each_tick_records_its_own_row():
    desk = Desk(whole(velocity=1.0))
    desk.play([[0.2, 0.0]] * 4)
    values = desk.sent.wire[0][2]
    assert np.diff([0.1, *values[:, 0]]) == pytest.approx([0.05] * 4)
    assert desk.rows() == [float(np.float32((v - 0.1) / 2.0)) for v in values[:, 0]]
    assert [step.clipped for step in desk.sent.steps] == [1] * 4


@pytest.mark.parametrize('source', [Source.HOLD, Source.HALT])
def test_a_whole_chunk_that_is_cut_ends_where_the_robot_is(source):
    desk = Desk(whole(velocity=1.0))
    desk.play([[0.2, 0.0]] * 4, count=2)
    reached = desk.sent.wire[0][2][1].tolist()
    desk.commander.hold(desk.stamp(), 0, source)
    kind, _, values = desk.sent.wire[-2]
    assert (kind, values) == ('rest', reached)
    assert desk.counters.cut_chunks == 1
    # And goes on from there: the next chunk begins with the limits' first step.
    desk.tick += 1
    desk.play([[0.2, 0.0]])
    trajectory = next(e for e in reversed(desk.sent.wire) if e[0] == 'trajectory')
    assert trajectory[2][0, 0] == pytest.approx(reached[0] + 0.05)


def test_a_whole_chunk_played_to_its_end_is_not_cut():
    desk = Desk(whole())
    desk.play([[0.2, 0.0]] * 4)
    desk.commander.late(desk.stamp(), 0, desk.place)
    assert desk.sent.wire[-2][2] == pytest.approx([0.5, 0.1])
    assert desk.counters.cut_chunks == 0


def test_on_stop_says_what_comes_last():
    def last_of(on_stop, **changes):
        desk = Desk(joint_contract(joints=1, on_stop=on_stop, acceleration=2.0, **changes))
        desk.play([[0.0025], [0.0075], [0.015]])
        slept = []
        desk.commander.stop(desk.stamp(), 0, slept.append)
        last = desk.sent.steps[-1]
        assert last.source == Source.HALT
        assert desk.sent.wire[-2][0] == 'rest'
        return desk.values()[2:], slept

    stay = 0.1 + 2.0 * float(np.float32(0.015))
    assert last_of('hold') == ([stay, stay], [])
    assert last_of('zero') == ([stay, stay], [])
    values, slept = last_of('ramp_down')  # 0.3/s, then 0.2, 0.1, 0 in steps of 0.1/s
    assert values == pytest.approx([0.13, 0.14, 0.145, 0.145], abs=1e-6)
    assert slept == [PERIOD_NS] * 2


def test_with_one_command_a_tick_everything_is_as_if_there_were_no_upsampling():
    plain, cubic = Sent(), Sent()
    for sent, kind in ((plain, 'hold'), (cubic, 'cubic')):
        contract = joint_contract(joints=2, upsampling=kind)
        commander = Commander(contract, sent, Counters(), False)
        commander.start(Measurement((0.0, 0.0)), soft=False)
        rows = np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32)
        chunk = PlannedChunk(rows, 0, 0, 0, '0' * 64, 1, {})
        for i in range(20):
            following = rows[i + 1] if i < 19 else None
            commander.play(i * PERIOD_NS, chunk, i, None, following)
    assert plain.commands == cubic.commands
    assert all(a.action.tobytes() == b.action.tobytes() for a, b in zip(plain.steps, cubic.steps))


def test_nothing_is_sent_while_it_is_not_known_where_a_position_is():
    sent, counters = Sent(), Counters()
    commander = Commander(joint_contract(), sent, counters, lockstep=False)
    chunk = PlannedChunk(np.zeros((1, 2), np.float32), 0, 0, 0, '0' * 64, 1, {})
    commander.hold(0, 0)
    commander.play(PERIOD_NS, chunk, 0)
    commander.stop(2 * PERIOD_NS, 0, None)
    assert sent.commands == sent.steps == []
    assert 'never measured' in counters.reason


def test_velocities_are_upsampled_and_held_as_well():
    contract = dataclasses.replace(POINT, commands_per_tick=4, upsampling='linear')
    desk = Desk(contract, place=math.nan)
    desk.play([[1.0, 0.0]])
    assert desk.values() == [0.5, 1.0, 1.5, 2.0]
    desk.commander.hold(desk.stamp(), 0)
    desk.go_on()
    assert desk.values()[4:] == [0.0] * 4
    assert [int(step.source) for step in desk.sent.steps] == [0, 2]
    assert all(a <= b for a, b in itertools.pairwise([c[0] for c in desk.sent.commands]))
