# SPDX-License-Identifier: Apache-2.0
"""Who commands the robot, and whether it is still the same process."""

from types import SimpleNamespace

from qcfql_ros.nodes.robot_graph import WHO_CHECKS, RobotGraph


class Graph:
    """A node whose view of the network is set by hand."""

    def __init__(self):
        self.commanders = {'one'}
        self.questions = 0

    def resolve_topic_name(self, topic):
        return f'/{topic}'

    def count_publishers(self, topic):
        return len(self.commanders)

    def get_publishers_info_by_topic(self, topic):
        self.questions += 1
        return [SimpleNamespace(endpoint_gid=name.encode()) for name in self.commanders]


def watched():
    node = Graph()
    graph = RobotGraph(node, [], ['command'])
    graph.remember()
    node.questions = 0
    return node, graph


def test_a_commander_that_stays_is_seldom_asked_who_it_is():
    node, graph = watched()
    assert [graph.changed() for _ in range(5 * WHO_CHECKS)] == [''] * (5 * WHO_CHECKS)
    assert node.questions == 5


def test_one_that_takes_the_place_of_another_between_two_checks_is_seen():
    node, graph = watched()
    assert graph.changed() == ''
    node.commanders = {'two'}
    reasons = [graph.changed() for _ in range(WHO_CHECKS)]
    assert 'a new command publisher is there' in reasons


def test_one_more_and_one_gone_are_seen_at_once():
    node, graph = watched()
    node.commanders = {'one', 'two'}
    assert graph.changed() == 'a new command publisher is there'
    graph.remember()
    node.commanders = set()
    assert graph.changed() == 'the command publisher has gone'
