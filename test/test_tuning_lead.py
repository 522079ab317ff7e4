# SPDX-License-Identifier: Apache-2.0
"""The lead of an episode, as it is asked for while the policy drives."""

from __future__ import annotations

import pytest
from wall_rig import WallRig

from qcfql_ros.control.tuning import Tuning

MS = 1_000_000


def test_an_adaptive_lead_is_switched_on_and_off_between_episodes():
    rig = WallRig()
    plan = rig.policy.plan

    def slow_plan(*args, **kwargs):
        rig.clock.time_ns += 30 * MS
        return plan(*args, **kwargs)

    rig.policy.plan = slow_plan
    leads = []
    for adaptive in (False, True, True, False):
        rig.tuning.wanted = Tuning(lead_s=0.02, adaptive_lead=adaptive)
        count = len(rig.sent.steps)
        rig.run_until(rig.clock.time_ns + 20_000 * MS)
        rig.end_episode()
        leads.append({step.lead_ns for step in rig.sent.steps[count:]})
    adapted = pytest.approx(30 * MS * 1.25 + MS, rel=1e-3)
    assert [len(lead) for lead in leads] == [1, 1, 1, 1]
    assert [lead.pop() for lead in leads] == [20 * MS, adapted, adapted, 20 * MS]
