# SPDX-License-Identifier: Apache-2.0
"""Robots that learn on ROS 2 with QC-FQL: from demonstrations, then from their own practice."""

__version__ = '0.1.0'
