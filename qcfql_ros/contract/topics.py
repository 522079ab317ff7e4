# SPDX-License-Identifier: Apache-2.0
"""Names on the wire that are the same for every robot; all relative, a namespace moves them."""

from __future__ import annotations

JOINT_STATE = 'sensor_msgs/msg/JointState'
IMU = 'sensor_msgs/msg/Imu'
IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
JOINT_TRAJECTORY = 'trajectory_msgs/msg/JointTrajectory'
POSE = 'geometry_msgs/msg/Pose'
POSE_STAMPED = 'geometry_msgs/msg/PoseStamped'
TWIST = 'geometry_msgs/msg/Twist'
TWIST_STAMPED = 'geometry_msgs/msg/TwistStamped'
WRENCH = 'geometry_msgs/msg/Wrench'
WRENCH_STAMPED = 'geometry_msgs/msg/WrenchStamped'
BOOL = 'std_msgs/msg/Bool'
INT32 = 'std_msgs/msg/Int32'
FLOAT32 = 'std_msgs/msg/Float32'
FLOAT64 = 'std_msgs/msg/Float64'
FLOAT32_MULTI_ARRAY = 'std_msgs/msg/Float32MultiArray'
FLOAT64_MULTI_ARRAY = 'std_msgs/msg/Float64MultiArray'
STRING = 'std_msgs/msg/String'

IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)
ARRAY_TYPES = (FLOAT32_MULTI_ARRAY, FLOAT64_MULTI_ARRAY)
NUMBER_TYPES = (BOOL, INT32, FLOAT32, FLOAT64)
# They carry no stamp: when they were received stands for it.
UNSTAMPED = frozenset({*NUMBER_TYPES, *ARRAY_TYPES, STRING, POSE, TWIST, WRENCH})

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
