# SPDX-License-Identifier: Apache-2.0
"""Simulated robots: what `gym_robot_node` puts on topics."""

from qcfql_ros.robots.robot import Robot, TickResult, episode_seed, make_robot

__all__ = ['Robot', 'TickResult', 'episode_seed', 'make_robot']
