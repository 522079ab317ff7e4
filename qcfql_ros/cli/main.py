# SPDX-License-Identifier: Apache-2.0
"""The one command, `qcfql <verb>`: finds the verb's module, parses its arguments, runs it.

A verb is a module of `qcfql_ros.cli` with a docstring (its help), `add_arguments(parser)` and
`run(arguments) -> int`. Modules are imported only when their verb is asked for.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import qcfql_ros
from qcfql_ros.errors import QcfqlError, nearest

VERBS = {
    'demo': 'watch a simulated arm learn, with everything running on this machine',
    'inspect': 'say whether recordings can be learned from',
    'train': 'train a policy from recordings',
    'evaluate': 'measure how often a policy succeeds, through the ROS loop',
    'record-demos': 'drive the robot with the scripted expert and record a bag',
    'play': 'publish a recording into its topics, for a learner or for others',
    'label': 'say when the episodes of a bag begin and end, and how',
    'replay-chunk': 'compute recorded chunks again, and compare',
    'verify-reference': "compare our update with the authors' code, number by number",
}

# What to install when a module of another distribution is missing.
EXTRAS = {
    **dict.fromkeys(('torch', 'safetensors'), "pip install 'qcfql_ros[robot]'"),
    **dict.fromkeys(('rosbags', 'mcap', 'zstandard'), "pip install 'qcfql_ros[learn]'"),
    **dict.fromkeys(('gymnasium', 'mujoco', 'ogbench'), "pip install 'qcfql_ros[sim]'"),
    **dict.fromkeys(('rich', 'matplotlib'), "pip install 'qcfql_ros[demo]'"),
    'lerobot': "pip install 'qcfql_ros[lerobot]'",
    'rclpy': "source a ROS 2 installation, or pip install 'qcfql_ros[ros-jazzy]'",
}

INTERRUPTED = 130
PIPE_CLOSED = 141
USER_ERROR = 2


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f'{self.prog}: {message}; see {self.prog} --help\n')


def _overview() -> str:
    rows = '\n'.join(f'  {verb:<18}{text}' for verb, text in VERBS.items())
    return (
        'usage: qcfql <verb> [arguments]\n\n'
        f'verbs:\n{rows}\n\n'
        'qcfql <verb> --help says what a verb takes; qcfql --version prints the version.\n'
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        the verb's exit status; 2 for what the user can change, 130 after Ctrl-C, 141 where
            nobody reads the output any more.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ('-h', '--help', 'help'):
        print(_overview(), end='')
        return 0 if words else USER_ERROR
    if words[0] == '--version':
        print(f'qcfql {qcfql_ros.__version__}')
        return 0
    verb = words[0]
    if verb not in VERBS:
        hint = nearest(verb, VERBS) or f'; verbs are {", ".join(VERBS)}'
        print(f'qcfql: unknown verb {verb!r}{hint}', file=sys.stderr)
        return USER_ERROR
    try:
        module = importlib.import_module(f'qcfql_ros.cli.{verb.replace("-", "_")}')
        parser = Parser(
            prog=f'qcfql {verb}',
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(parser)
        status = int(module.run(parser.parse_args(words[1:])))
        sys.stdout.flush()
        return status
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or '').partition('.')[0])
        if extra is None:
            raise
        print(f'qcfql {verb}: no module {error.name!r}; {extra}', file=sys.stderr)
        return USER_ERROR
    except QcfqlError as error:
        print(f'qcfql {verb}: {error}', file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # who read the output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


if __name__ == '__main__':
    sys.exit(main())
