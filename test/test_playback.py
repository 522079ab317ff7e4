# SPDX-License-Identifier: Apache-2.0
"""A recording played in pieces is given out in its own order, however it is heard."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcfql_ros.data.playback import (
    Answer,
    Entry,
    Piece,
    Playback,
    PlayedOrder,
    as_text,
    fingerprint,
    from_text,
)
from qcfql_ros.errors import MessageError

TOPICS = ('/a', '/b', '/c', '/mark')
PLAYBACK = Playback('id', 'bags/one', 'f' * 64, 'e' * 32, TOPICS)


@pytest.mark.parametrize(
    'record',
    [
        PLAYBACK,
        Piece('id', 3, (Entry(0, 2**62 + 1, 0), Entry(2, 5, 4)), last=True),
        Answer('id', '/learner 1', 3, ('/a',), 17, waits='x', refuses='y'),
    ],
)
def test_what_is_said_is_read_as_it_was_said(record):
    assert from_text(type(record), as_text(record)) == record


@pytest.mark.parametrize('text', ['', 'x', '[]', '{}', '{"id":1}', '{"entries":[[1]]}', '3'])
def test_what_is_no_piece_is_refused(text):
    with pytest.raises(MessageError, match='not a Piece'):
        from_text(Piece, text)


@given(st.data())
def test_any_interleaving_of_topics_and_pieces_gives_the_recording(data):
    recording = [
        (TOPICS[t], 10 * i, i, f'{i}'.encode())
        for i, t in enumerate(data.draw(st.lists(st.integers(0, 3), max_size=40)))
    ]
    # What is on its way: one line a topic, each in order, and one of pieces.
    lines = defaultdict(list)
    size = data.draw(st.integers(1, 9))
    starts = range(0, max(1, len(recording)), size)
    for number, start in enumerate(starts, 1):
        part = recording[start : start + size]
        for topic, _, _, content in part:
            lines[topic].append(content)
        entries = tuple(Entry(TOPICS.index(m[0]), m[1], m[2]) for m in part)
        lines['piece'].append(Piece('id', number, entries, last=number == len(starts)))
    lines['/c'].clear()  # is not listened to
    lines['/mark'].clear()
    order = PlayedOrder(PLAYBACK, {'/a', '/b', '/elsewhere'}, {'/mark'})
    assert order.topics == ('/a', '/b')
    heard = []
    while any(lines.values()):
        line = data.draw(st.sampled_from([name for name, rest in lines.items() if rest]))
        item = lines[line].pop(0)
        order.add(item) if line == 'piece' else order.hear(line, item)
        while (part := order.take()) is not None:
            heard += part
    wanted = [m if m[0] != '/mark' else (*m[:3], b'') for m in recording if m[0] != '/c']
    assert [tuple(message) for message in heard] == wanted
    assert order.over and order.held == 0 and order.broken == ''
    assert order.messages == sum(m[0] in ('/a', '/b') for m in recording)


def test_a_piece_waits_for_the_last_of_its_messages_and_says_for_which():
    order = PlayedOrder(PLAYBACK, TOPICS)
    order.hear('/a', b'1')
    order.add(Piece('id', 1, (Entry(0, 1, 0), Entry(1, 2, 0), Entry(1, 3, 0))))
    assert order.take() is None and order.missing() == {'/b': 2} and order.held == 1
    order.hear('/b', b'2')
    assert order.take() is None and order.missing() == {'/b': 1}
    order.hear('/b', b'3')
    assert [m.data for m in order.take() or ()] == [b'1', b'2', b'3']
    assert order.taken == 1 and not order.over


def test_a_piece_that_is_missing_ends_it():
    order = PlayedOrder(PLAYBACK, TOPICS)
    order.add(Piece('id', 1, ()))
    order.add(Piece('other', 7, ()))
    order.add(Piece('id', 3, ()))
    assert order.broken == 'piece 3 came, 2 was expected'
    order = PlayedOrder(PLAYBACK, TOPICS)
    order.add(Piece('id', 1, (Entry(4, 0, 0),)))
    assert order.broken == 'piece 1 names a topic that is not played'


def test_the_fingerprint_sees_names_sizes_and_both_ends(tmp_path):
    path = tmp_path / 'a.mcap'
    content = bytes(200_000)
    prints = set()
    for changed in (content, b'x' + content[1:], content[1:], content[:-1] + b'x'):
        path.write_bytes(changed)
        prints.add(fingerprint([path]))
    other = tmp_path / 'b.mcap'
    other.write_bytes(changed)
    prints |= {fingerprint([other]), fingerprint([path, other])}
    assert len(prints) == 6
