# SPDX-License-Identifier: Apache-2.0
"""The policy on the robot: observations in, commands out, weights exchanged between chunks."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import numpy as np
import torch
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from std_srvs.srv import Trigger

from qcfql_ros.algorithm.policy import ChunkPolicy
from qcfql_ros.contract import load_contract
from qcfql_ros.control.counters import Counters
from qcfql_ros.control.halt import HaltLatch, latch_file
from qcfql_ros.control.planner import Planner
from qcfql_ros.errors import ParameterError, QcfqlError
from qcfql_ros.nodes.driving import Driving
from qcfql_ros.nodes.policy_diagnostics import PolicyDiagnostics
from qcfql_ros.nodes.process import Stop, run_node
from qcfql_ros.nodes.ros_parameters import declare_parameters
from qcfql_ros.nodes.weight_gate import WeightGate, check_fit, try_out
from qcfql_ros.parameters import POLICY_NODE

CONNECT_S = 0.02


class PolicyNode(LifecycleNode):
    """Configure reads contract and model; activate drives; deactivate ends with the hold row."""

    def __init__(self, stop: Stop) -> None:
        super().__init__('policy')
        self._stop = stop
        self._parameters = declare_parameters(self, POLICY_NODE)
        self._failure: BaseException | None = None
        self._driving: Driving | None = None
        self._latch: HaltLatch | None = None
        self._counters = Counters()
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = PolicyDiagnostics(self)
        self.create_timer(1.0, self._on_second, clock=self._steady)
        self.create_service(Trigger, '~/halt', self._on_halt)
        self.create_service(Trigger, '~/resume', self._on_resume)
        if self._parameters.autostart:
            for transition in (self.trigger_configure, self.trigger_activate):
                transition()
                if self._failure is not None:
                    raise self._failure

    # Exceptions in these callbacks are swallowed by rclpy: they are caught and said here.

    def on_configure(self, state) -> TransitionCallbackReturn:
        """Read contract and model, and plan once."""
        return self._transition(self._configure)

    def on_activate(self, state) -> TransitionCallbackReturn:
        """Begin to drive."""
        return self._transition(self._activate)

    def on_deactivate(self, state) -> TransitionCallbackReturn:
        """Send the safe command and let go."""
        return self._transition(self.close)

    def on_cleanup(self, state) -> TransitionCallbackReturn:
        """Forget the model."""
        return self._transition(self.close)

    def on_shutdown(self, state) -> TransitionCallbackReturn:
        """Send the safe command and end the process."""

        def shut_down() -> None:
            self.close()
            self._stop.request()

        return self._transition(shut_down)

    def on_error(self, state) -> TransitionCallbackReturn:
        """Let go of everything; the node can be configured again."""
        return self._transition(self.close)

    def _transition(self, action: Callable[[], None]) -> TransitionCallbackReturn:
        self._failure = None
        try:
            action()
        except QcfqlError as error:
            self._failure = error
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self._failure = error
            self.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        parameters = self._parameters
        for name in ('contract', 'model'):
            if not getattr(parameters, name):
                raise ParameterError(f'parameter {name} is not set; give -p {name}:=...')
        device = parameters.device
        if device == 'auto':
            device = 'cuda' if torch.cuda.is_available() else 'cpu'
        elif device == 'cuda' and not torch.cuda.is_available():
            raise ParameterError('parameter device is cuda, but torch finds no GPU; take cpu')
        torch.set_num_threads(parameters.threads)
        contract = load_contract(parameters.contract)
        policy = ChunkPolicy.load(parameters.model, device)
        check_fit(policy, contract, parameters.model)
        try_out(policy, np.zeros(contract.state_dim, dtype=np.float32), parameters.model)
        after_crash = contract.after_crash
        file = latch_file(parameters.state_dir, self.get_namespace(), contract.name, after_crash)
        before, self._latch = self._latch, HaltLatch(file, after_crash)
        if before is not None and before.halted:  # cleanup is no ~/resume
            self._latch.halt(before.reason)
        self._contract = contract
        self._counters = Counters()
        self._planner = Planner(policy, parameters.seed, self._counters)
        self._gate = WeightGate(contract, self._planner, device, self.get_logger().error)
        self._diagnostics.configured(
            contract, self._planner, self._gate, self._latch, self._counters
        )
        self.get_logger().info(
            f'contract {contract.name} ({contract.hash[:12]}), policy version '
            f'{policy.info.version} ({policy.digest[:12]}) on {device}, {parameters.pacing}'
        )

    def _activate(self) -> None:
        if self._latch.halted:
            self.get_logger().warning(f'halted: {self._latch.reason}; call ~/resume to drive')
        self._latch.driving(True)
        self._driving = Driving(
            self,
            self._contract,
            self._planner,
            self._gate,
            self._latch,
            self._counters,
            self._parameters.pacing,
            self._parameters.lead_s,
            self._stop.request,
        )
        self._connecting = self.create_timer(CONNECT_S, self._on_connecting, clock=self._steady)

    def close(self) -> None:
        """Send the safe command as the last one, and take the topics away."""
        driving, self._driving = self._driving, None
        if driving is None:
            return
        self.destroy_timer(self._connecting)
        driving.close()
        # Whoever dies of an error has not ended cleanly, in whatever order it lets go.
        self._latch.driving(self._stop.error is not None)

    def _on_connecting(self) -> None:
        if self._driving.output.connected():
            self._connecting.cancel()
            self._driving.advance()

    def _on_halt(self, request, response) -> Trigger.Response:
        if self._latch is None:
            response.success, response.message = False, 'not configured: nothing is driven'
            return response
        self._latch.halt('asked for by ~/halt')
        response.success, response.message = True, 'halted; call ~/resume to drive again'
        if self._driving is not None:
            self._driving.advance()
        self.get_logger().warning(response.message)
        return response

    def _on_resume(self, request, response) -> Trigger.Response:
        if self._latch is None:
            response.success, response.message = False, 'not configured: nothing is halted'
            return response
        response.success = True
        response.message = 'resumed' if self._latch.halted else 'was not halted'
        self._latch.resume()
        if self._driving is not None:
            self._driving.advance()
        self.get_logger().warning(response.message)
        return response

    def _on_second(self) -> None:
        if self._driving is None:
            self._diagnostics.inactive()
        else:
            self._diagnostics.active(self._driving)


def main(args: list[str] | None = None) -> int:
    """Run the policy until it is asked to stop."""
    return run_node(PolicyNode, args)


if __name__ == '__main__':
    sys.exit(main())
