# SPDX-License-Identifier: Apache-2.0
"""What decoding owes its callers: a message that is not what its type says is a MessageError."""

from __future__ import annotations

import functools
from collections.abc import Callable

from qcfql_ros.errors import MessageError


def refuses_malformed[**Args, Result](
    function: Callable[Args, Result],
) -> Callable[Args, Result]:
    """Have `function` raise MessageError where a message lacks an attribute or has a wrong one.

    Messages are duck-typed: rclpy's, those of `data.cdr`, and those of other bag libraries, which
    need not check what they are filled with.
    """

    @functools.wraps(function)
    def guarded(*args: Args.args, **kwargs: Args.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except (AttributeError, TypeError, ValueError, OverflowError, LookupError) as error:
            raise MessageError(
                f'{function.__name__}: the message does not have the fields of its type: {error!r}'
            ) from error

    return guarded
