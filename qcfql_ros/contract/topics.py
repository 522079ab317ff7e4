# SPDX-License-Identifier: Apache-2.0
"""Names on the wire that are the same for every robot; all relative, a namespace moves them."""

from __future__ import annotations

JOINT_STATE = 'sensor_msgs/msg/JointState'
JOINT_TRAJECTORY = 'trajectory_msgs/msg/JointTrajectory'
POSE_STAMPED = 'geometry_msgs/msg/PoseStamped'
TWIST_STAMPED = 'geometry_msgs/msg/TwistStamped'
WRENCH_STAMPED = 'geometry_msgs/msg/WrenchStamped'
FLOAT64_MULTI_ARRAY = 'std_msgs/msg/Float64MultiArray'
IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')

STEP_TOPIC = 'policy/step'
CHUNK_TOPIC = 'policy/chunk'
WEIGHTS_TOPIC = 'policy_weights'
CREDITS_TOPIC = 'credits'
HEARTBEAT_TOPIC = 'policy/heartbeat'
WATCHDOG_TOPIC = 'watchdog/heartbeat'
HALT_TOPIC = 'halt'


def absolute(topic: str, namespace: str = '') -> str:
    """Return `topic` below `namespace` with one leading slash, as bags and graphs name it."""
    below = namespace.strip('/')
    return f'/{below}/{topic}' if below else f'/{topic}'
