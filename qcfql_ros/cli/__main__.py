# SPDX-License-Identifier: Apache-2.0
"""`python -m qcfql_ros.cli` is `qcfql`."""

import sys

from qcfql_ros.cli.main import main

sys.exit(main())
