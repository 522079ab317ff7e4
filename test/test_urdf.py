# SPDX-License-Identifier: Apache-2.0
"""Limits of joints from a URDF, and files that are none."""

from __future__ import annotations

import math

import pytest

from qcfql_ros.contract import urdf as urdf_module
from qcfql_ros.contract.urdf import JointLimits, Urdf
from qcfql_ros.errors import ContractError

ARM = """<?xml version="1.0"?>
<robot name="arm">
  <link name="base"/>
  <joint name="shoulder" type="revolute">
    <limit lower="-2.5" upper="2.0" velocity="1.5" effort="80"/>
  </joint>
  <joint name="elbow" type="revolute">
    <limit lower="-2.5" upper="2.5" velocity="1.5" effort="40"/>
    <safety_controller soft_lower_limit="-2.4" soft_upper_limit="3.0" k_velocity="10"/>
  </joint>
  <joint name="wrist" type="continuous"><limit velocity="3.0" effort="10"/></joint>
  <joint name="slide" type="prismatic"><limit upper="0.1"/></joint>
  <joint name="flange" type="fixed"/>
  <transmission name="t"><joint name="shoulder"><limit lower="9" upper="9"/></joint></transmission>
</robot>
"""


@pytest.fixture
def read(tmp_path):
    def read(old='', new=''):
        assert old in ARM
        path = tmp_path / 'arm.urdf'
        path.write_text(ARM.replace(old, new, 1))
        return Urdf(path)

    return read


def test_each_kind_of_joint_has_the_limits_that_it_has(read):
    arm = read()
    assert arm.limits('shoulder') == JointLimits(-2.5, 2.0, 1.5, 80.0)
    assert arm.limits('wrist') == JointLimits(-math.inf, math.inf, 3.0, 10.0)
    assert arm.limits('slide') == JointLimits(0.0, 0.1, math.inf, math.inf)


def test_a_soft_limit_only_tightens(read):
    assert read().limits('elbow') == JointLimits(-2.4, 2.5, 1.5, 40.0)
    assert read('"-2.4"', '"-3.0"').limits('elbow').low == -2.5


@pytest.mark.parametrize(
    ('old', 'new', 'joint', 'message'),
    [
        ('', '', 'sholder', r"no joint 'sholder'; did you mean 'shoulder'\?"),
        ('', '', 'flange', r"joint 'flange': type: got 'fixed', wanted one of revolute"),
        ('<limit upper="0.1"/>', '', 'slide', r"joint 'slide': limit: got none, wanted <limit>"),
        ('lower="-2.5"', 'lower="2.0"', 'shoulder', r'lower: got 2, wanted less than upper, 2'),
        ('lower="-2.5"', 'lower="low"', 'shoulder', r"lower: got 'low', wanted a number"),
        ('lower="-2.5"', 'lower="nan"', 'shoulder', r"lower: got 'nan', wanted a finite"),
        ('velocity="1.5"', 'velocity="0"', 'shoulder', r'velocity: got 0, wanted more than 0'),
    ],
)
def test_a_joint_without_sensible_limits_is_refused_by_name(read, old, new, joint, message):
    arm = read(old, new)
    with pytest.raises(ContractError, match=message) as error:
        arm.limits(joint)
    assert 'arm.urdf' in str(error.value)


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('</robot>', '', r'is not valid XML'),
        ('<robot name="arm">', '<robot xmlns:xacro="http://x" name="arm">', r'is a xacro file'),
        ('<link name="base"/>', '<xacro:macro name="m"/>', r'`xacro arm.urdf > robot.urdf`'),
        ('name="elbow"', 'name="shoulder"', r"joint 'shoulder' is there twice"),
        (
            '<robot',
            '<!DOCTYPE robot [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>\n<robot',
            r'document type declaration',
        ),
    ],
)
def test_what_is_no_urdf_is_refused(read, old, new, message):
    with pytest.raises(ContractError, match=message) as error:
        read(old, new)
    assert 'arm.urdf' in str(error.value)


def test_another_file_a_missing_one_and_a_huge_one_are_refused(tmp_path, monkeypatch):
    path = tmp_path / 'arm.urdf'
    with pytest.raises(ContractError, match='cannot be read'):
        Urdf(path)
    path.write_text('<sdf><robot/></sdf>')
    with pytest.raises(ContractError, match='got <sdf>, wanted <robot>'):
        Urdf(path)
    monkeypatch.setattr(urdf_module, 'LARGEST_BYTES', len(ARM) - 1)
    path.write_text(ARM)
    with pytest.raises(ContractError, match='is larger than'):
        Urdf(path)
    with pytest.raises(ContractError, match=r'arm\.urdf\.xacro: is a xacro file'):
        Urdf(tmp_path / 'arm.urdf.xacro')
