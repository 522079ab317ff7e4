# SPDX-License-Identifier: Apache-2.0
"""The policy on the robot: observations in, commands out, weights exchanged between chunks."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import SimpleNamespace

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import qos_profile_sensor_data
from std_msgs.msg import Bool, Header
from std_srvs.srv import Trigger

from qcfql_ros.contract.topics import HALT_TOPIC, WATCHDOG_TOPIC
from qcfql_ros.control.realtime import RealtimeThread, RealtimeWishes
from qcfql_ros.control.tuning import TuningBox
from qcfql_ros.control.watchdog import INACTIVE
from qcfql_ros.errors import NotReadyError, QcfqlError, SupervisionError
from qcfql_ros.nodes.driving import BeatingDriver, Driving
from qcfql_ros.nodes.heartbeat import HEARTBEAT_QOS, Heartbeat
from qcfql_ros.nodes.lifecycle import refuse_wrong_transitions
from qcfql_ros.nodes.policy_diagnostics import PolicyDiagnostics
from qcfql_ros.nodes.policy_setup import Setup, set_up
from qcfql_ros.nodes.policy_timing import TimingTopic
from qcfql_ros.nodes.policy_tuning import check_tuning, tuning_of
from qcfql_ros.nodes.process import Stop, run_node
from qcfql_ros.nodes.ros_parameters import declare_parameters
from qcfql_ros.nodes.sensing import Sensing
from qcfql_ros.parameters import POLICY_NODE

CONNECT_S = 0.02
RETRY_S = 0.1
SUPERVISE_S = 0.1
TIMING_S = 0.1
WATCHDOG_MAX_AGE_NS = 1_000_000_000


class PolicyNode(LifecycleNode):
    """Configure reads contract and model and listens; activate drives; deactivate stops safely."""

    def __init__(self, stop: Stop) -> None:
        super().__init__('policy')
        refuse_wrong_transitions(self)
        self._stop = stop
        self._setup: Setup | None = None
        self._values = declare_parameters(
            self, POLICY_NODE, self._check_parameters, self._on_parameters
        )
        self._tuning = TuningBox(tuning_of(self._values))
        self._failure: BaseException | None = None
        self._configured = False
        self._sensing: Sensing | None = None
        self._driving: Driving | None = None
        self._waiting = ''
        self._died = ''
        self._watchdog_heard_ns: int | None = None
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._heartbeat = Heartbeat(self)
        self._diagnostics = PolicyDiagnostics(self, self._values)
        self._timing = TimingTopic(self)
        self.create_timer(1.0, self._on_second, clock=self._steady)
        self.create_timer(TIMING_S, self._on_timing, clock=self._steady)
        self.create_timer(SUPERVISE_S, self._on_supervise, clock=self._steady)
        self.create_service(Trigger, '~/halt', self._on_halt)
        self.create_service(Trigger, '~/resume', self._on_resume)
        # Best effort hears publishers of either kind.
        self.create_subscription(Bool, HALT_TOPIC, self._on_halt_topic, qos_profile_sensor_data)
        self.create_subscription(Header, WATCHDOG_TOPIC, self._on_watchdog, HEARTBEAT_QOS)
        if self._values.autostart:
            self.trigger_configure()
            if self._failure is not None:
                raise self._failure
            self._starting = self.create_timer(RETRY_S, self._start, clock=self._steady)
            self._start()

    def _start(self) -> None:
        """Activate once everything is there; asked again until it is, or somebody else decides."""
        if self._configured and self._driving is None:
            try:
                self._require_ready()
            except NotReadyError as error:
                self._waiting = str(error)
                return
            self.trigger_activate()
            if isinstance(self._failure, NotReadyError):
                return  # a sensor grew too old between the two looks
            if self._failure is not None:
                raise self._failure
        self._starting.cancel()

    def _check_parameters(self, wanted: SimpleNamespace) -> None:
        if self._configured:
            check_tuning(wanted, self._setup.contract, self._setup.planner.policy)

    def _on_parameters(self, values: SimpleNamespace) -> None:
        self._tuning.wanted = tuning_of(values)

    # Exceptions in these callbacks are swallowed by rclpy: they are caught and said here.

    def on_configure(self, state) -> TransitionCallbackReturn:
        """Read contract and model, plan once, and listen."""
        return self._transition(self._configure)

    def on_activate(self, state) -> TransitionCallbackReturn:
        """Begin to drive, if everything is there."""
        return self._transition(self._activate)

    def on_deactivate(self, state) -> TransitionCallbackReturn:
        """Send the safe command and let go."""
        return self._transition(self._let_go)

    def on_cleanup(self, state) -> TransitionCallbackReturn:
        """Forget the model; a halt holds on."""
        return self._transition(self._forget)

    def on_shutdown(self, state) -> TransitionCallbackReturn:
        """Send the safe command and end the process."""

        def shut_down() -> None:
            self._stop.request()
            self._forget()

        return self._transition(shut_down)

    def on_error(self, state) -> TransitionCallbackReturn:
        """Let go of everything; the node can be configured again."""
        return self._transition(self._forget)

    def _transition(self, action: Callable[[], None]) -> TransitionCallbackReturn:
        self._failure = None
        try:
            action()
        except QcfqlError as error:
            self._failure = error
            self._diagnostics.last_error = str(error)
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self._failure = error
            self._diagnostics.last_error = f'{type(error).__name__}: {error}'
            self.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        log, values = self.get_logger(), self._values
        self._wishes = RealtimeWishes(
            values.realtime_priority, values.cpu_affinity, values.lock_memory
        )
        setup = set_up(values, self.get_namespace(), self._setup, log.error, self._tuning)
        self._setup = setup
        self._diagnostics.configured(
            setup.contract, setup.planner, setup.gate, setup.latch, setup.counters
        )
        if self._values.pacing == 'wall':
            self._listen()
        self._configured = True
        contract, policy = setup.contract, setup.planner.policy
        log.info(
            f'contract {contract.name} ({contract.hash[:12]}), policy version '
            f'{policy.info.version} ({policy.digest[:12]}) on {setup.device}, '
            f'{self._values.pacing}'
        )

    def _listen(self) -> Sensing:
        if self._sensing is None:
            setup, pacing = self._setup, self._values.pacing
            self._sensing = Sensing(self, setup.contract, setup.counters, pacing)
        return self._sensing

    def _require_ready(self) -> None:
        """Raise NotReadyError naming what driving needs and is not there (wall pacing)."""
        if self._values.pacing == 'lockstep':
            return
        self._sensing.require_fresh()
        if self._wants_watchdog() and not self._watchdog_heard():
            raise NotReadyError(
                f'not activated: {self._setup.contract.file} wants a watchdog, and no heartbeat '
                f'comes on topic {WATCHDOG_TOPIC!r}; start watchdog_node with the same contract'
            )

    def _activate(self) -> None:
        self._require_ready()
        latch = self._setup.latch
        if latch.halted:
            self.get_logger().warning(f'halted: {latch.reason}; call ~/resume to drive')
        latch.driving(True)
        self._driving = Driving(
            self,
            self._setup,
            self._listen,
            self._heartbeat,
            self._values,
            self._tuning,
            self._on_died,
            RealtimeThread(self._wishes, self.get_logger().warning),
        )
        self._waiting = self._diagnostics.last_error = ''
        self._connecting = self.create_timer(CONNECT_S, self._on_connecting, clock=self._steady)

    def _let_go(self) -> None:
        """Send the safe command as the last one, and take the topics away."""
        driving, self._driving = self._driving, None
        if driving is None:
            return
        self.destroy_timer(self._connecting)
        if self._values.pacing == 'lockstep':
            self._deafen()
        if self._died:
            driving.abandon()
        else:
            driving.close()
        # Whoever dies of an error has not ended cleanly, in whatever order it lets go.
        self._setup.latch.driving(self._stop.error is not None)
        if self._died:
            self._setup.latch.halt(self._died)

    def _deafen(self) -> None:
        sensing, self._sensing = self._sensing, None
        if sensing is not None:
            sensing.close()

    def _forget(self) -> None:
        self._let_go()
        self._deafen()
        self._configured = False

    def close(self) -> None:
        """Stop safely; say why, if it is for an error."""
        self._forget()
        error = self._stop.error
        if error is not None:
            self._diagnostics.last_error = f'{type(error).__name__}: {error}'
            self._diagnostics.fatal = self._died or f'ended by {self._diagnostics.last_error}'
            self._diagnostics.inactive()
            self._diagnostics.flush()

    def _on_connecting(self) -> None:
        if self._driving.output.connected():
            self._connecting.cancel()
            self._driving.advance()

    def _on_died(self, error: BaseException) -> None:
        """Called by a thread that dies, with what it died of; the node ends, halted."""
        name = threading.current_thread().name
        self._died = self._died or f'the {name} thread died: {type(error).__name__}: {error}'
        self._stop.request(error)

    def _on_supervise(self) -> None:
        """Look from outside at the threads that drive."""
        driving = self._driving
        if driving is None:
            self._heartbeat.beat(INACTIVE)
            return
        hung = driving.supervise()
        if hung and not self._died:
            self._died = hung
            self._stop.request(SupervisionError(f'{hung}; the safe command was sent'))
            self._let_go()
        elif driving.on_the_wall and self._wants_watchdog() and not self._watchdog_heard():
            reason = f'no heartbeat on topic {WATCHDOG_TOPIC!r}: nobody watches'
            self._setup.counters.reason = reason

    def _wants_watchdog(self) -> bool:
        return self._setup.contract.safety.watchdog_timeout_s is not None

    def _on_watchdog(self, message: Header) -> None:
        self._watchdog_heard_ns = time.monotonic_ns()

    def _watchdog_heard(self) -> bool:
        heard_ns = self._watchdog_heard_ns
        return heard_ns is not None and time.monotonic_ns() - heard_ns < WATCHDOG_MAX_AGE_NS

    def _on_halt_topic(self, message: Bool) -> None:
        if message.data and self._setup is not None:
            self._halt(f'asked for on topic {HALT_TOPIC!r}')

    def _halt(self, reason: str) -> None:
        self._setup.latch.halt(reason)
        if self._driving is not None:
            self._driving.advance()
        self.get_logger().warning(f'halted: {reason}; call ~/resume to drive again')

    def _on_halt(self, request, response) -> Trigger.Response:
        if self._setup is None:
            response.success, response.message = False, 'not configured: nothing is driven'
            return response
        self._halt('asked for by ~/halt')
        response.success, response.message = True, 'halted; call ~/resume to drive again'
        return response

    def _on_resume(self, request, response) -> Trigger.Response:
        if self._setup is None:
            response.success, response.message = False, 'not configured: nothing is halted'
            return response
        latch = self._setup.latch
        response.success = True
        response.message = 'resumed' if latch.halted else 'was not halted'
        latch.resume()
        if self._driving is not None:
            self._driving.advance()
        self.get_logger().warning(response.message)
        return response

    def _on_second(self) -> None:
        self._diagnostics.supervision = self._died
        wanted = self._configured and self._wants_watchdog()
        seen = 'seen' if self._watchdog_heard() else 'not seen'
        self._diagnostics.watchdog = seen if wanted else 'not wanted'
        if self._driving is None:
            self._diagnostics.inactive(self._waiting)
        else:
            self._diagnostics.active(self._driving, self._heartbeat.state)

    def _on_timing(self) -> None:
        driver = self._driving and self._driving.driver
        if isinstance(driver, BeatingDriver):
            self._timing.send(driver)


def main(args: list[str] | None = None) -> int:
    """Run the policy until it is asked to stop."""
    return run_node(PolicyNode, args)


if __name__ == '__main__':
    sys.exit(main())
