# SPDX-License-Identifier: Apache-2.0
"""Faults that others have shipped, and what keeps this control from each of them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
import time

import numpy as np
import pytest
from control_parts import CHUNK, PERIOD_NS, POINT, CountingPolicy, Sent, joint_contract
from wall_rig import MS, OFFSET_NS, WallRig

from qcfql_ros.contract.named_vector import Outcome
from qcfql_ros.control.chunk_buffer import ChunkBuffer
from qcfql_ros.control.commander import Commander
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.halt import HaltLatch
from qcfql_ros.control.latest import Sample
from qcfql_ros.control.lead import adapted_lead_ns
from qcfql_ros.control.lockstep import LockstepDriver
from qcfql_ros.control.planner import Planner
from qcfql_ros.control.tuning import Tuning
from qcfql_ros.control.wall import State, WallDriver
from qcfql_ros.data.steps import Source

HOUR_NS = 3_600_000_000_000


def played(rig):
    """Return (chunk, index) of the ticks that a policy drove."""
    return [(s.chunk, s.index) for s in rig.sent.steps if s.source == Source.POLICY]


def with_safety(contract, **changes):
    return dataclasses.replace(contract, safety=dataclasses.replace(contract.safety, **changes))


def test_a_slow_first_plan_is_not_taken_for_rows_consumed():
    rig = WallRig()
    rig.slow_ns = 600 * MS  # twelve ticks: the first plan warms up
    rig.run_until(700 * MS)
    rig.slow_ns = 0
    rig.run_until(2_000 * MS)
    assert played(rig)[:9] == [(i // CHUNK, i % CHUNK) for i in range(9)]
    assert rig.counters.chunk_misses > 5


def test_the_lead_comes_down_again_when_planning_is_quick_again():
    slow, quick = [40 * MS] * 256, [4 * MS] * 256
    chunk_ns = 400 * MS
    assert adapted_lead_ns(slow, 10 * MS, chunk_ns) == 51 * MS
    assert adapted_lead_ns((slow + quick)[-256:], 51 * MS, chunk_ns) == 6 * MS
    assert adapted_lead_ns([*quick[:255], 40 * MS], 6 * MS, chunk_ns) == 6 * MS  # one of 256
    assert adapted_lead_ns(slow, 10 * MS, 60 * MS) == 30 * MS  # at most half a chunk
    assert adapted_lead_ns(slow[:3], 10 * MS, chunk_ns) == 10 * MS  # too few to tell


def test_an_adaptive_lead_is_fixed_in_an_episode_and_forgets_a_slow_time():
    rig = WallRig(adaptive_lead=True)
    plan = rig.policy.plan
    took_ns = 30 * MS

    def slow_plan(*args, **kwargs):
        rig.clock.time_ns += took_ns
        return plan(*args, **kwargs)

    rig.policy.plan = slow_plan
    leads = []
    for took_ns in (30 * MS, 2 * MS, 2 * MS):  # noqa: B007 - read by slow_plan
        count = len(rig.sent.steps)
        rig.run_until(rig.clock.time_ns + 70_000 * MS)
        rig.end_episode()
        leads.append({step.lead_ns for step in rig.sent.steps[count:]})
    rig.run_until(rig.clock.time_ns + 1_000 * MS)
    assert [len(lead) for lead in leads] == [1, 1, 1]
    first, second, third = (lead.pop() for lead in leads)
    assert first == 10 * MS
    assert second == pytest.approx(30 * MS * 1.25 + MS, rel=1e-3)
    assert third == pytest.approx(2 * MS * 1.25 + MS, rel=1e-2)


def test_a_plan_that_warms_up_does_not_count_for_the_lead():
    rig = WallRig()
    rig.run_until(2_000 * MS)
    assert len(rig.prefetch.latencies_ns) == len(rig.policy.seeds) - 1


def test_a_lead_asked_for_while_running_begins_with_the_next_episode():
    rig = WallRig()
    rig.run_until(600 * MS)
    rig.tuning.wanted = Tuning(lead_s=0.02)
    rig.run_until(900 * MS)
    rig.end_episode()
    rig.run_until(1_500 * MS)
    assert {(s.episode, s.lead_ns) for s in rig.sent.steps} == {(0, 10 * MS), (1, 20 * MS)}


def test_a_short_chunk_is_played_as_it_is_and_not_filled_up_with_zeros():
    rig = WallRig(policy=CountingPolicy(version=7, rows=3))
    rig.policy.info.action_chunk_size = CHUNK
    rig.run_until(1_500 * MS)
    assert played(rig)[:7] == [(i // 3, i % 3) for i in range(7)]
    assert all(s.action[0] == np.float32(0.07) for s in rig.sent.steps)
    assert rig.counters.holds == 0


@pytest.mark.parametrize('rate_hz', [10.0, 30.0, 125.0])
def test_times_follow_from_the_rate_of_the_contract(rate_hz):
    contract = dataclasses.replace(POINT, rate_hz=rate_hz)
    rig = WallRig(contract=contract, lead_ns=3 * MS)
    rig.run_until(1_500 * MS)
    stamps = [step.stamp_ns for step in rig.sent.steps]
    assert set(np.diff(stamps)) == {contract.period_ns}
    since_sensors_ns = (stamps[0] - OFFSET_NS - 7 * MS) % contract.period_ns
    assert abs(since_sensors_ns - contract.period_ns // 2) < 1000
    assert len(stamps) > 1.2 * rate_hz
    assert rig.counters.chunk_misses == 0
    for chunk in rig.sent.chunks[1:]:
        used = chunk.observation_stamps['goal']
        assert used <= chunk.stamp_ns - 3 * MS < used + contract.period_ns


@pytest.mark.parametrize('step_ns', [HOUR_NS, -HOUR_NS])
def test_setting_the_clock_neither_hurries_nor_stops_the_ticks(step_ns):
    rig = WallRig()
    begun = []
    tick = rig.driver.tick

    def noted(deadline_ns):
        if rig.driver.state is State.RUNNING:
            begun.append(deadline_ns)
        return tick(deadline_ns)

    rig.driver.tick = noted
    rig.run_until(600 * MS)
    before = len(rig.sent.steps)
    rig.offset_ns += step_ns
    rig.run_until(2_000 * MS)
    apart = [b - a for a, b in itertools.pairwise(begun)]
    assert min(apart) == PERIOD_NS and {a % PERIOD_NS for a in apart} == {0}
    assert len(begun) >= 1_900 * MS // PERIOD_NS - 4
    # The ticks of the new clock are an episode of their own.
    named = [step.stamp_ns - OFFSET_NS for step in rig.sent.steps]
    set_at = next(i for i, (a, b) in enumerate(itertools.pairwise(named)) if b - a != PERIOD_NS)
    assert before <= set_at < before + CHUNK + 1
    assert abs(named[set_at + 1] - named[set_at] - step_ns) < 4 * PERIOD_NS
    assert {step.episode for step in rig.sent.steps[set_at + 1 :]} == {1}
    assert rig.counters.holds <= 2 and rig.counters.chunk_misses <= 1
    assert rig.sent.steps[set_at].source == Source.HOLD


@pytest.mark.parametrize('step_ns', [HOUR_NS, -HOUR_NS])
def test_a_clock_set_between_two_episodes_keeps_none_waiting(step_ns):
    rig = WallRig()
    rig.run_until(600 * MS)
    rig.end_episode()
    while rig.driver.state is not State.WAITING:
        rig.run_until(rig.clock.time_ns + MS)
    ended, ticks = rig.clock.time_ns, len(rig.sent.steps)
    rig.offset_ns += step_ns
    rig.run_until(ended + 1_000 * MS)
    assert len(rig.sent.steps) > ticks + 3
    assert rig.sent.steps[-1].episode == 1


@pytest.mark.parametrize('stop', ['reset', 'halt'])
def test_a_chunk_planned_before_a_reset_or_a_halt_is_not_played_after_it(stop):
    rig = WallRig()
    rig.run_until(600 * MS)
    rig.policy.actions[:, 0] = 0.75  # planned before, if it is ever played
    while rig.sent.steps[-1].index != CHUNK - 2:
        rig.run_until(rig.clock.time_ns + MS)
    request = rig.requests.pop(0) if rig.requests else None
    rig.run_until(rig.clock.time_ns + PERIOD_NS)
    request = request or rig.requests.pop(0)
    if stop == 'halt':
        rig.latch.halt('tested')
        rig.run_until(rig.clock.time_ns + 2 * PERIOD_NS)
        rig.latch.resume()
    else:
        rig.end_episode()
        rig.run_until(rig.clock.time_ns + PERIOD_NS)
    discarded = rig.driver.buffer.discarded
    count = len(rig.sent.steps)
    chunk = rig.planner.plan(np.zeros(6, np.float32), {}, 0, request.epoch)
    assert not rig.driver.buffer.offer(chunk)
    rig.prefetch.busy = False
    rig.policy.actions[:, 0] = 0.01
    rig.run_until(rig.clock.time_ns + 600 * MS)
    assert rig.driver.buffer.discarded == discarded + 1
    assert len(rig.sent.steps) > count
    assert all(s.action[0] != np.float32(0.75) for s in rig.sent.steps[count:])


def test_a_stream_that_is_not_there_is_never_filled_in():
    rig = WallRig()
    put = rig.driver.on_sensor
    rig.driver.on_sensor = lambda name, sample: name != 'goal' and put(name, sample)
    rig.run_until(1_000 * MS)
    assert rig.policy.observations == []
    assert rig.sent.wire == []
    assert "'goal_pose'" in rig.driver.check()


@pytest.mark.parametrize('cause', ['stale', 'nan', 'late', 'halt', 'stop'])
def test_a_position_is_held_where_it_is_whatever_the_cause_and_never_at_zero(cause):
    rig = WallRig(contract=joint_contract())
    rig.numbers = 0.4
    rig.run_until(600 * MS)
    assert played(rig)
    before = rig.sent.commands[-1][1]
    if cause == 'stale':
        rig.silent = True
    elif cause == 'nan':
        rig.policy.actions[:] = np.nan
    elif cause == 'late':
        rig.slow_ns = 10_000 * MS
    elif cause == 'halt':
        rig.latch.halt('tested')
    if cause == 'stop':
        rig.driver.stop()
    while rig.sent.wire[-2][0] != 'rest':
        before = rig.sent.commands[-1][1]
        rig.run_until(rig.clock.time_ns + PERIOD_NS)
    kind, _, values = rig.sent.wire[-2]
    assert (kind, values) == ('rest', before)
    assert all(value > 0.1 for value in values)
    row = rig.sent.steps[-1].action
    assert row.tolist() == np.float32((np.array(before) - 0.1) / 2.0).tolist()


def test_an_episode_begins_where_the_robot_was_put():
    rig = WallRig(contract=joint_contract(velocity=1.0))
    rig.numbers = 0.4
    rig.run_until(600 * MS)
    rig.end_episode()
    rig.numbers = -0.9
    count = len(rig.sent.commands)
    rig.run_until(1_000 * MS)
    assert rig.sent.commands[count][1] == pytest.approx([-0.9 + 0.05] * 2)


def test_only_an_activation_and_a_resume_begin_softly():
    rig = WallRig(contract=joint_contract(soft_start_s=0.4))
    rig.numbers = 0.4
    rig.run_until(1_000 * MS)
    target = 2.0 * 0.01 + 0.1
    assert rig.sent.commands[0][1][0] > 0.38
    assert rig.sent.commands[-1][1][0] == pytest.approx(target)
    count = len(rig.sent.commands)
    rig.end_episode()
    rig.run_until(1_500 * MS)
    assert rig.sent.commands[count][1][0] == pytest.approx(target)
    rig.latch.halt('tested')
    rig.run_until(1_700 * MS)
    rig.latch.resume()
    count = len(rig.sent.commands)
    rig.run_until(2_200 * MS)
    assert rig.sent.commands[count][1][0] > 0.38


def test_a_robot_that_does_not_resume_by_itself_is_halted_by_silence():
    contract = with_safety(POINT, resume_after_stale=False, stop_after_s=0.5)
    rig = WallRig(contract=contract)
    rig.run_until(600 * MS)
    rig.silent = True
    rig.run_until(1_100 * MS)
    assert not rig.latch.halted
    assert rig.counters.stale_ticks > 0
    rig.run_until(1_700 * MS)
    assert rig.latch.halted
    assert "topic 'joint_states'" in rig.latch.reason
    assert int(rig.sent.steps[-1].source) == 3
    count = len(rig.sent.steps)
    rig.silent = False
    rig.run_until(2_500 * MS)
    assert len(rig.sent.steps) == count
    rig.latch.resume()
    rig.run_until(3_000 * MS)
    assert rig.sent.rows()[count][:2] == (0, 1)


def test_of_a_chunk_as_many_rows_are_played_as_the_horizon_says():
    rig = WallRig(execution_horizon=3)
    rig.run_until(1_500 * MS)
    assert played(rig)[:7] == [(i // 3, i % 3) for i in range(7)]
    assert rig.counters.chunk_misses == 0
    assert {len(chunk.actions) for chunk in rig.sent.chunks} == {CHUNK}


def test_the_next_row_is_seen_ahead_across_chunks_and_within_the_horizon():
    buffer, planner = ChunkBuffer(2), Planner(CountingPolicy(), 0, Counters())
    for _ in range(2):
        assert buffer.peek() is None
        buffer.offer(planner.plan(np.zeros(6, np.float32), {}, 0, 0))
        assert buffer.peek()[1] == 0
        assert buffer.rows_left() == 2
        buffer.take()
        assert buffer.peek()[1] == np.float32(0.01)
        buffer.take()
    buffer.offer(planner.plan(np.zeros(6, np.float32), {}, 0, 0))
    assert buffer.take()[1] == 0


@pytest.mark.parametrize(('rate_hz', 'commands'), [(20.0, 5), (30.0, 4)])
def test_several_commands_a_tick_are_on_one_grid_and_steps_exactly_a_period_apart(
    rate_hz, commands
):
    contract = joint_contract(commands=commands, upsampling='linear', rate_hz=rate_hz)
    rig = WallRig(contract=contract)
    rig.numbers = 0.4
    rig.run_until(1_500 * MS)
    assert set(np.diff([s.stamp_ns for s in rig.sent.steps])) == {contract.period_ns}
    gaps = np.diff([stamp for stamp, _ in rig.sent.commands])
    assert set(gaps) <= {contract.period_ns // commands + i for i in range(commands)}
    assert rig.counters.chunk_misses == rig.counters.holds == 0
    assert len(rig.sent.commands) >= commands * len(rig.sent.steps)
    assert played(rig)[:6] == [(i // CHUNK, i % CHUNK) for i in range(6)]


@pytest.mark.parametrize('missed', [1, 3, 5, 7])
def test_commands_that_were_missed_cost_no_row_and_leave_the_grid_alone(missed):
    contract = joint_contract(commands=5, upsampling='linear')
    rig = WallRig(contract=contract)
    rig.numbers = 0.4
    rig.run_until(700 * MS)
    rig.deadline += missed * contract.period_ns // 5  # as the executor skips
    rig.run_until(1_500 * MS)
    assert played(rig)[:20] == [(i // CHUNK, i % CHUNK) for i in range(20)]
    stamps = {(s.stamp_ns - rig.sent.steps[0].stamp_ns) % PERIOD_NS for s in rig.sent.steps}
    assert stamps == {0}
    assert len({s.stamp_ns for s in rig.sent.steps}) == len(rig.sent.steps)


def test_a_halt_between_two_ticks_is_obeyed_at_the_next_command():
    contract = joint_contract(commands=5, upsampling='linear')
    rig = WallRig(contract=contract)
    rig.numbers = 0.4
    rig.run_until(600 * MS)
    while rig.sent.wire[-1][0] != 'command':
        rig.run_until(rig.clock.time_ns + MS)
    last_ns = rig.sent.commands[-1][0]
    rig.latch.halt('tested')
    rig.run_until(rig.clock.time_ns + 200 * MS)
    rest = [entry for entry in rig.sent.wire if entry[0] == 'rest']
    assert [entry[1] - last_ns for entry in rest] == [PERIOD_NS // 5]
    assert [int(s.source) for s in rig.sent.steps[-2:]] == [0, 3]
    assert rig.sent.steps[-1].stamp_ns - rig.sent.steps[-2].stamp_ns == PERIOD_NS


class Threads:
    """A driver with its threads on the real clock, and a robot that a test feeds."""

    def __init__(self, policy=None, contract=POINT):
        self.contract = with_safety(contract, resume_after_stale=True)
        self.policy = policy or CountingPolicy(columns=contract.action_dim)
        self.sent, self.counters, self.latch = Sent(), Counters(), HaltLatch(None)
        self.planner = Planner(self.policy, 0, self.counters)
        self.commander = Commander(self.contract, self.sent, self.counters, lockstep=False)
        self.driver = WallDriver(
            self.contract, self.planner, self.commander, self.latch, self.counters, time.time_ns
        )
        self.died = []
        self._feeding = threading.Event()
        self._feeder = threading.Thread(target=self._feed, daemon=True)

    def __enter__(self):
        self._feeder.start()
        self.driver.start(self.died.append)
        return self

    def __exit__(self, *args):
        self._feeding.set()
        self._feeder.join(5.0)

    def _feed(self):
        while not self._feeding.wait(0.01):
            for name, size in (('joint_states', 4), ('goal', 2)):
                sample = Sample(time.time_ns(), time.monotonic_ns(), np.full(size, 0.4))
                self.driver.on_sensor(name, sample)


def fast():
    return dataclasses.replace(POINT, rate_hz=100.0)


def test_the_control_thread_goes_on_while_inference_takes_its_time(wait_until):
    policy, gate = CountingPolicy(), threading.Event()
    plan = policy.plan
    policy.plan = lambda *args, **kwargs: (
        (len(policy.seeds) < 2 or gate.wait(20)) and plan(*args, **kwargs)
    )
    with Threads(policy, fast()) as rig:
        wait_until(lambda: rig.counters.chunk_misses > 20, what='ticks without a chunk')
        assert rig.driver.supervise(time.monotonic_ns()) == ''
        since_ns = rig.driver.prefetch.planning_since_ns
        assert rig.driver.supervise(since_ns + 900 * MS).find('inference') == -1
        assert 'the inference thread hangs' in rig.driver.supervise(since_ns + 1_100 * MS)
        gate.set()
        wait_until(lambda: len(rig.sent.chunks) > 3, what='chunks again')
        rig.driver.stop()
    assert rig.died == []


def test_an_inference_thread_that_died_is_noticed_and_the_safe_command_is_the_last(wait_until):
    policy = CountingPolicy()
    plan = policy.plan

    def dies(*args, **kwargs):
        if len(policy.seeds) == 3:
            raise RuntimeError('out of memory')
        return plan(*args, **kwargs)

    policy.plan = dies
    with Threads(policy, fast()) as rig:
        wait_until(lambda: rig.died, what='the death of the inference thread')
        wait_until(
            lambda: rig.driver.supervise(time.monotonic_ns()) == 'the inference thread is dead',
            what='the notice of it',
        )
        wait_until(lambda: rig.counters.chunk_misses > 2, what='ticks without a chunk')
        assert rig.sent.steps[-1].source == Source.HOLD  # meanwhile
        rig.driver.stop()
    assert str(rig.died[0]) == 'out of memory'
    assert rig.sent.steps[-1].source == Source.HALT
    assert rig.sent.wire[-2][0] == 'rest'


def test_a_control_thread_that_died_is_noticed_and_the_safe_command_is_sent_without_it(
    wait_until,
):
    with Threads(contract=fast()) as rig:
        wait_until(lambda: len(rig.sent.steps) > 5, what='ticks')
        rig.sent.announce = None  # not callable
        wait_until(lambda: rig.died, what='the death of the control thread')
        later_ns = time.monotonic_ns() + 1_100 * MS
        assert 'the control thread hangs' in rig.driver.supervise(later_ns)
        rig.driver.stop()
        assert rig.driver.supervise(later_ns) == ''  # it should not run any more
    assert rig.sent.steps[-1].source == Source.HALT


def test_a_control_thread_has_time_to_start_and_no_more_than_that():
    rig = WallRig()
    rig.driver.executor.start = rig.driver.prefetch.start = lambda *args, **kwargs: None
    rig.driver.start(lambda error: None)
    assert rig.driver.supervise(rig.clock.time_ns + 3_000 * MS) == ''
    assert 'the control thread hangs' in rig.driver.supervise(rig.clock.time_ns + 4_000 * MS)
    rig.run_until(100 * MS)
    assert 'the control thread hangs' in rig.driver.supervise(rig.clock.time_ns + 1_100 * MS)


def test_a_control_thread_that_hangs_is_gone_around_and_sends_nothing_afterwards(wait_until):
    gate, hanging = threading.Event(), threading.Event()
    with Threads(contract=fast()) as rig:
        wait_until(lambda: len(rig.sent.steps) > 5, what='ticks')
        take = rig.driver.buffer.take

        def hangs():
            hanging.set()
            gate.wait(20)
            return take()

        rig.driver.buffer.take = hangs
        assert hanging.wait(5)
        before = time.monotonic()
        rig.driver.stop()
        assert time.monotonic() - before < 5.0
        assert rig.sent.steps[-1].source == Source.HALT
        count = len(rig.sent.wire)
        gate.set()
        wait_until(lambda: rig.died, what='the thread that is not let send')
    assert len(rig.sent.wire) == count
    assert 'safe command' in str(rig.died[0])


class Lockstep:
    """A lockstep driver, and a robot made of calls."""

    def __init__(self, contract, **driver):
        self.sent, self.counters, self.latch = Sent(), Counters(), HaltLatch(None)
        planner = Planner(CountingPolicy(columns=contract.action_dim), 0, self.counters)
        commander = Commander(contract, self.sent, self.counters, lockstep=True)
        self.driver = LockstepDriver(
            contract, planner, commander, self.latch, self.counters, **driver
        )
        self.tick = 0

    def step(self, place, ended=False):
        stamp_ns = OFFSET_NS + self.tick * PERIOD_NS
        values = None if place is None else np.full(4, place)
        self.driver.on_sensor('joint_states', stamp_ns, values)
        self.driver.on_sensor('goal', stamp_ns, np.zeros(2))
        self.driver.on_outcome(Outcome(stamp_ns, 0.0, ended, False, ended, 0, 1, ended))
        self.tick += 1


def test_in_lockstep_positions_begin_where_they_are_measured_in_each_episode():
    rig = Lockstep(joint_contract(velocity=1.0))
    rig.step(0.4)
    rig.step(0.4, ended=True)
    rig.step(0.4)  # final
    rig.step(-0.9)
    assert [values[0] for _, values in rig.sent.commands] == pytest.approx([0.35, 0.3, -0.85])


def test_in_lockstep_nothing_is_commanded_before_it_is_known_where_positions_are():
    rig = Lockstep(joint_contract())
    rig.step(None)
    assert rig.sent.commands == []
    assert 'never measured' in rig.counters.reason


def test_in_lockstep_a_tick_has_one_command_and_the_horizon_holds():
    contract = joint_contract(commands=5, upsampling='cubic')
    rig = Lockstep(contract, execution_horizon=2)
    for _ in range(5):
        rig.step(0.4)
    assert len(rig.sent.commands) == 5
    assert [(s.chunk, s.index) for s in rig.sent.steps] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert math.isclose(rig.sent.commands[1][1][1], 2.0 * 0.01 + 0.1, rel_tol=1e-6)
