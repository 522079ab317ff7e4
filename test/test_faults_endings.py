# SPDX-License-Identifier: Apache-2.0
"""However the policy node ends, the last command on the wire is the safe one."""

from __future__ import annotations

import json
import signal

import pytest
from fault_rig import Rig, velocity_contract
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8MultiArray
from std_srvs.srv import Trigger

from qcfql_ros.nodes.diagnostics import ERROR


@pytest.fixture
def rig(tmp_path):
    it = Rig(tmp_path, velocity_contract(tmp_path))
    yield it
    it.close()


def latch(rig):
    return json.loads((rig.folder / 'state/root_point_reach.json').read_text())


def stands(rig):
    """Whether the last command on the wire holds the robot."""
    (message,) = rig.last_commands().values()
    return not rig.moves(message)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_the_safe_command_and_no_alarm(rig, number):
    policy = rig.start_policy()
    rig.until_driving()
    policy.send_signal(number)
    assert policy.wait(timeout=20) == 0
    assert stands(rig)
    assert rig.beats[-1][1].frame_id == 'inactive'
    assert latch(rig) == {'halted': False, 'driving': False, 'reason': ''}


def provoke(rig, fault):
    """Make the faulty callback run."""
    if fault == 'outcome':
        rig.outcome.publish(JointState())
    elif fault in ('weights', 'weights_thread'):
        rig.weights.publish(UInt8MultiArray(data=b'nothing'))
    elif fault == 'service':
        client = rig.node.create_client(Trigger, 'policy/halt')
        rig.until(client.service_is_ready, 'the service')
        client.call_async(Trigger.Request())
    elif fault == 'parameter':
        client = rig.node.create_client(SetParameters, 'policy/set_parameters')
        rig.until(client.service_is_ready, 'the service')
        value = ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=False)
        request = SetParameters.Request(parameters=[Parameter(name='use_sim_time', value=value)])
        client.call_async(request)


@pytest.mark.parametrize(
    'fault', ['sensor', 'outcome', 'weights', 'weights_thread', 'timer', 'service', 'parameter']
)
def test_an_exception_in_a_callback_ends_with_the_safe_command_and_says_why(rig, fault):
    policy = rig.start_policy(fault)
    rig.until_driving()
    rig.trigger.touch()
    provoke(rig, fault)
    assert policy.wait(timeout=20) == 1
    assert stands(rig)
    assert 'RuntimeError: tested' in policy.log.read_text()
    rig.until(lambda: rig.level() == ERROR, 'the error')
    assert rig.value('last_error') == 'RuntimeError: tested'
    assert latch(rig)['driving']  # no clean end: the next one waits


def change(rig, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return rig.call(ChangeState, 'policy/change_state', request).success


def test_an_exception_while_deactivating_is_told_and_the_safe_command_is_sent(rig):
    policy = rig.start_policy('deactivate')
    rig.until_driving()
    rig.trigger.touch()
    assert not change(rig, Transition.TRANSITION_DEACTIVATE)
    assert stands(rig)
    assert 'RuntimeError: tested' in policy.log.read_text()
    rig.until(
        lambda: rig.value('last_error') == 'RuntimeError: tested',
        'the error',
    )
    # The node is unconfigured, and can be used again.
    rig.trigger.unlink()
    assert change(rig, Transition.TRANSITION_CONFIGURE)
    rig.until(lambda: change(rig, Transition.TRANSITION_ACTIVATE), 'the activation')
    assert rig.ask('resume').message == 'resumed'  # that was no clean end
    rig.until_driving()


def test_each_transition_that_ends_driving_ends_it_with_the_safe_command(rig):
    policy = rig.start_policy()
    rig.until_driving()
    assert change(rig, Transition.TRANSITION_DEACTIVATE)
    assert stands(rig)
    heard = len(rig.commands)
    assert change(rig, Transition.TRANSITION_CLEANUP)
    assert not change(rig, Transition.TRANSITION_ACTIVATE)  # no such transition from here
    assert change(rig, Transition.TRANSITION_CONFIGURE)
    assert len(rig.commands) == heard
    rig.until(lambda: change(rig, Transition.TRANSITION_ACTIVATE), 'the activation')
    rig.until_driving()
    assert change(rig, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert policy.wait(timeout=20) == 0
    assert stands(rig)
