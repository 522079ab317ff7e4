# SPDX-License-Identifier: Apache-2.0
"""The command `qcfql` as a process among others."""

import subprocess
import sys
from pathlib import Path

BAG = Path(__file__).parent / 'data' / 'rosbag2' / 'mcap_default'


def test_a_reader_that_has_seen_enough_ends_the_command_without_a_traceback():
    words = [sys.executable, '-m', 'qcfql_ros.cli', 'inspect', str(BAG)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        error = process.stderr.read()
        assert process.wait(timeout=60.0) == 141
    assert error == b''
