# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'qcfql_ros'
HERE = Path(__file__).resolve().parent
SHARE = f'share/{PACKAGE}'


def tree(folder):
    """Yield ``(install folder, [files])`` for every file below `folder`."""
    for path in sorted(p for p in (HERE / folder).rglob('*') if p.is_file()):
        if '__pycache__' not in path.parts:
            relative = path.relative_to(HERE)
            yield f'{SHARE}/{relative.parent}', [str(relative)]


# What a robot needs; rclpy and the messages come from ROS (apt) or from `ros-jazzy`, `ros-kilted`.
ROBOT = ['numpy>=1.26', 'pyyaml', 'safetensors>=0.4', 'torch>=2.3']
LEARN = [
    'lz4>=4', 'mcap>=1.2', 'rich>=13', 'rosbags==0.11.9', 'tensorboard>=2.15', 'zstandard>=0.22',
]  # fmt: skip


def ros_wheels(distro, rclpy, interfaces, lifecycle):
    """Return the wheels of one ROS distribution, pinned: unpinned names may give another one."""
    return [
        f'ros-{distro}-rclpy[fastrtps]=={rclpy}',
        f'ros-{distro}-sensor-msgs=={interfaces}',
        f'ros-diagnostic-msgs=={interfaces}',
        f'ros-geometry-msgs=={interfaces}',
        f'ros-lifecycle-msgs=={lifecycle}',
        f'ros-std-msgs=={interfaces}',
        f'ros-std-srvs=={interfaces}',
        f'ros-trajectory-msgs=={interfaces}',
    ]


setup(
    name=PACKAGE,
    version='0.1.0',
    description='Robots that learn on ROS 2 with QC-FQL, from demonstrations and practice',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    maintainer='qcfql_ros maintainers',
    maintainer_email='maintainers@qcfql-ros.example',
    python_requires='>=3.12',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['py.typed']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (SHARE, ['package.xml']),
        *tree('launch'),
        *tree('config'),
        *tree('models'),
    ],
    install_requires=['numpy>=1.26', 'pyyaml'],
    extras_require={
        'robot': ROBOT,
        'learn': [*ROBOT, *LEARN],
        'sim': ['gymnasium>=1.0', 'mujoco>=3.1', 'ogbench==1.2.2'],
        'demo': ['matplotlib>=3.8', 'rich>=13'],
        'benchmark': ['gymnasium>=1.0', 'stable-baselines3>=2.4'],
        'lerobot': ['lerobot[dataset]==0.6.1'],
        'ros-jazzy': ros_wheels('jazzy', '7.1.6', '5.3.6', '2.0.3'),
        'ros-kilted': ros_wheels('kilted', '9.1.2', '5.5.1', '2.3.0'),
        'test': ['hypothesis>=6.100', 'mypy>=1.11', 'pytest>=8', 'ruff>=0.6', 'types-PyYAML'],
    },
    entry_points={
        'console_scripts': [
            'qcfql = qcfql_ros.cli.main:main',
            'gym_robot_node = qcfql_ros.nodes.gym_robot_node:main',
            'learner_node = qcfql_ros.nodes.learner_node:main',
            'policy_node = qcfql_ros.nodes.policy_node:main',
            'watchdog_node = qcfql_ros.nodes.watchdog_node:main',
        ],
    },
    zip_safe=True,
)
