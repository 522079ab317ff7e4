# SPDX-License-Identifier: Apache-2.0
"""The contract: which topics and fields make each feature, and how an action is commanded."""

from qcfql_ros.contract.load import find_contract, load_contract
from qcfql_ros.contract.schema import Contract

__all__ = ['Contract', 'find_contract', 'load_contract']
