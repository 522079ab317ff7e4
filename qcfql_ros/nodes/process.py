# SPDX-License-Identifier: Apache-2.0
"""What every node executable does around its node: start, spin, signals, exit status.

::

    def main(args=None) -> int:
        return run_node(MyNode, args)          # MyNode(stop) is an rclpy Node

    sys.exit(main())

Exit status: 0 after SIGINT, SIGTERM or `stop.request()`; 2 with one line on stderr for a
QcfqlError; 1 for a thread that hangs, and with the traceback for anything else.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from qcfql_ros.errors import ParameterError, QcfqlError, SupervisionError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Asks the process to end; from any thread, any number of times (the first one counts)."""

    def __init__(self) -> None:
        self.future = Future()
        self.error: BaseException | None = None
        self._lock = threading.Lock()

    @property
    def requested(self) -> bool:
        """Whether somebody asked."""
        return self.future.done()

    def request(self, error: BaseException | None = None) -> None:
        """End the spin. With `error`, the exit status and stderr are those of that error.

        A thread that dies calls this with its exception: its node must not live on without it.
        """
        with self._lock:
            if self.future.done():
                return
            self.error = error
            self.future.set_result(None)


class _Signals:
    """SIGINT and SIGTERM as `stop.request()`, at once even while the executor waits in C.

    rclpy's own handlers shut the context down first, after which nothing can be published any
    more: the safe command would not be the last message on the wire. Python's handlers run only
    between two bytecodes of the main thread, which may sit in rcl_wait for ever. The wake-up
    descriptor is written by the C handler itself; a thread reads it.
    """

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self.interrupt_main = True  # until the node spins: also break a slow start
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._old = {s: signal.signal(s, self._handle) for s in STOP_SIGNALS}
        self._thread = threading.Thread(target=self._watch, name='signals', daemon=True)
        self._thread.start()

    def _handle(self, number: int, frame: object) -> None:
        if self.interrupt_main:
            self.interrupt_main = False
            raise KeyboardInterrupt

    def _watch(self) -> None:
        while True:
            received = os.read(self._read, 1)
            if not received or received == b'\0':
                return
            if received[0] in STOP_SIGNALS:
                self._stop.request()

    def close(self) -> None:
        """Put the old handlers back."""
        self.interrupt_main = False
        signal.set_wakeup_fd(self._old_fd)
        os.write(self._write, b'\0')
        self._thread.join()
        for number, handler in self._old.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)


def run_node(create: Callable[[Stop], Node], args: list[str] | None = None) -> int:
    """Run one node until it is asked to stop; return the exit status.

    Args:
        create: makes the node from a Stop. If the node has a method `close()`, it is called
            before the node is destroyed, while the context can still publish.
        args: command line with `--ros-args`; None takes sys.argv.
    """
    stop = Stop()
    signals = _Signals(stop)
    node = None
    executor = None
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = create(stop)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        signals.interrupt_main = False
        _spin(executor, stop)
        error = stop.error
    except (KeyboardInterrupt, ExternalShutdownException):
        error = None
    except (ParameterException, RCLError) as caught:  # a command line that ROS cannot read
        error = ParameterError(str(caught))
    except BaseException as caught:
        error = caught
        stop.request(error)  # close() is to know that this is no clean end
    signals.interrupt_main = False
    for teardown in (
        getattr(node, 'close', None),
        executor.shutdown if executor else None,
        node.destroy_node if node else None,
        rclpy.try_shutdown,
    ):
        try:
            if teardown is not None:
                teardown()
        except Exception as caught:
            traceback.print_exc()
            error = error or caught
    signals.close()
    return _report(error)


def _spin(executor: SingleThreadedExecutor, stop: Stop) -> None:
    """Execute callbacks until somebody asks to stop.

    rclpy's own `spin_until_future_complete` adds a callback to the future with each turn and
    keeps them all: 6 MB a minute in a node that hears 300 messages a second.
    """
    # A task is work, which ends a turn that waits for some.
    stop.future.add_done_callback(lambda _: executor.create_task(lambda: None))
    while rclpy.ok() and not stop.requested:
        executor.spin_once()


def _report(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, QcfqlError):
        print(f'qcfql: {error}', file=sys.stderr, flush=True)
        # A thread that hung may not hang in the next run; a setting stays wrong.
        return 1 if isinstance(error, SupervisionError) else 2
    traceback.print_exception(error)
    sys.stderr.flush()
    return 1
