# SPDX-License-Identifier: Apache-2.0
"""The section `recordings` of a contract: its defaults, its part of the hash, what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from teleoperation_script import MS, PERIOD, contract_of

from qcfql_ros.contract import load_contract, topics
from qcfql_ros.contract.recordings import EventRule, Recordings, RewardRule
from qcfql_ros.data.labels import Label, labels_path, load_labels
from qcfql_ros.errors import ContractError

ROOT = Path(__file__).resolve().parent.parent


def recordings(**changes):
    return lambda data: data['recordings'].update(changes)


def only(**section):
    def change(data):
        data['recordings'] = section

    return change


def test_what_is_left_out_is_as_most_teleoperation_is_recorded(tmp_path):
    assert contract_of(tmp_path, only(clock='twist')).recordings == Recordings(
        clock='twist',
        by_header=True,
        grid='commands',
        tolerance_ns=PERIOD // 4,
        lead_ns=0,
        max_age_ns={'joints': 100 * MS},
        windows={'hand': (-PERIOD // 2, PERIOD // 2)},
        reward=RewardRule(step=0.0, success=1.0, failure=0.0),
        events=None,
    )


def test_the_only_command_topic_is_the_clock(tmp_path):
    def change(data):
        del data['action']['commands'][1]
        data['action']['names'] = ['vx']
        data['recordings'] = {}

    rules = contract_of(tmp_path, change).recordings
    assert (rules.clock, dict(rules.windows)) == ('twist', {})


def test_a_trajectory_says_when_it_starts_so_its_receipt_is_the_tick(tmp_path):
    def change(data):
        command = data['action']['commands'][0]
        command['type'] = topics.JOINT_TRAJECTORY
        command['fields'] = [{'field': 'position', 'name': 'a', 'action': 'vx'}]

    assert not contract_of(tmp_path, change).recordings.by_header

    def by_header(data):
        change(data)
        data['recordings']['clock_stamp'] = 'header'

    assert contract_of(tmp_path, by_header).recordings.by_header


def test_an_array_has_no_header_to_go_by(tmp_path):
    assert not contract_of(tmp_path, recordings(clock='hand')).recordings.by_header
    with pytest.raises(ContractError, match=r'clock_stamp: got .header., wanted receive'):
        contract_of(tmp_path, recordings(clock='hand', clock_stamp='header'))


CHANGES = {
    'clock': 'hand',
    'clock_stamp': 'receive',
    'grid': 'period',
    'tolerance_s': 0.01,
    'lead_s': 0.02,
    'max_age_s': 0.2,
    'commands': {'hand': {'match': 'latest'}},
    'reward': {'success': 2.0},
    'events': {'topic': 'episode', 'success': 'won'},
}


def test_every_key_is_part_of_the_hash_and_without_the_section_nothing_is(tmp_path):
    plain = contract_of(tmp_path)
    hashes = {contract_of(tmp_path, recordings(**{k: v})).hash for k, v in CHANGES.items()}
    assert len(hashes | {plain.hash}) == len(CHANGES) + 1
    without = contract_of(tmp_path, lambda data: data.pop('recordings'))
    assert without.recordings is None and without.hash not in hashes | {plain.hash}
    # Written out or left out: the default is the same contract.
    assert contract_of(tmp_path, recordings(lead_s=0.0, grid='commands')).hash == plain.hash


@pytest.mark.parametrize(
    ('changes', 'wanted'),
    [
        ({'clock': 'twists'}, r"clock: got 'twists', wanted one of twist, hand; did you mean"),
        ({'grid': 'ticks'}, r"grid: got 'ticks', wanted one of commands, period"),
        ({'tolerance_s': 0.05}, r'tolerance_s: got 0.05, wanted a number from 0 to 0.045'),
        ({'lead_s': -0.1}, r'lead_s: got -0.1'),
        ({'leads': 0.1}, r"unknown key 'leads'.*did you mean 'lead_s'"),
        ({'commands': {'twist': {}}}, r"commands.twist: unknown key 'twist', wanted one of hand"),
        ({'commands': {'hand': {'match': 'last'}}}, r"hand.match: got 'last', wanted one of"),
        ({'commands': {'hand': {'window_s': [0.1, 0.0]}}}, r'hand.window_s: got .*lower one'),
        ({'commands': {'hand': {'window_s': 0.1}}}, r'hand.window_s: got 0.1, wanted two'),
        (
            {'commands': {'hand': {'match': 'latest', 'window_s': [0, 0.1]}}},
            r'window_s: got .*wanted nothing beside `match: latest`',
        ),
        ({'reward': {'topic': 'reward'}}, r'reward.type'),
        ({'reward': {'topic': 'r', 'type': 'std_msgs/msg/Float'}}, r'type: got .*did you mean'),
        ({'reward': {'type': 'std_msgs/msg/Float32'}}, r'reward.type: got .*either topic'),
        (
            {'reward': {'topic': 'r', 'type': 'std_msgs/msg/Bool', 'success': 1.0}},
            r'reward.success: got 1.0, wanted either topic',
        ),
        ({'events': {'topic': 'episode', 'start': 'go'}}, r'events.success: got None, wanted'),
        ({'events': {'topic': 'twist', 'success': 'x'}}, r"topic 'twist' is used twice"),
        (
            {'events': {'topic': 'episode', 'success': 'end', 'abort': ' end '}},
            r"events.success: got 'end', wanted another text than that of abort",
        ),
        ({'events': {'topic': '/episode', 'success': 'x'}}, r'no leading slash'),
        ({'reward': {'topic': 'joint_states', 'type': 'std_msgs/msg/Bool'}}, r'used twice'),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(changes, wanted, tmp_path):
    with pytest.raises(ContractError, match=wanted) as error:
        contract_of(tmp_path, recordings(**changes))
    assert 'contract.yaml' in str(error.value)


def test_several_commands_need_a_clock(tmp_path):
    with pytest.raises(ContractError, match=r'clock: got None, wanted one of .* twist, hand'):
        contract_of(tmp_path, only())


@pytest.mark.parametrize(
    ('text', 'meaning'),
    [
        ('start', 'start'),
        ('start 12', 'start'),
        ('started', None),
        ('', None),
        ('end', 'abort'),
        ('end well', 'success'),
        ('  end   well done', 'success'),
        ('the end', None),
    ],
)
def test_a_text_means_what_its_first_words_mean(text, meaning):
    rule = EventRule('episode', {'start': 'start', 'abort': 'end', 'success': 'end well'})
    assert rule.meaning_of(text) == meaning


def test_what_the_page_shows_can_be_loaded(tmp_path):
    page = (ROOT / 'docs' / 'teleoperation.md').read_text()
    section, labels = re.findall(r'^```yaml\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    data = yaml.safe_load((ROOT / 'test' / 'data' / 'teleoperation.yaml').read_text())
    path = tmp_path / 'contract.yaml'
    path.write_text(yaml.safe_dump(data | yaml.safe_load(section)))
    rules = load_contract(path).recordings
    assert (rules.clock, rules.lead_ns, rules.by_header) == ('arm/joint_trajectory', 20 * MS, True)
    labels_path(tmp_path / 'bag').write_text(labels)
    assert load_labels(tmp_path / 'bag').episodes == (Label(0.545, 4.496, 'success'),)
