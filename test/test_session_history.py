# SPDX-License-Identifier: Apache-2.0
"""A learner that goes on with a recording decodes each earlier session once."""

import time
from pathlib import Path

import pytest
from test_recording import Session, fingerprint, reread, ticks

from qcfql_ros.data import session_history
from qcfql_ros.data.bag_metadata import read_metadata
from qcfql_ros.data.bag_steps import BagSteps
from qcfql_ros.data.session_history import SESSIONS, note_session


@pytest.fixture
def opened(monkeypatch) -> list[BagSteps]:
    """The parts of recordings that were looked at."""
    seen: list[BagSteps] = []

    def noting(*given, **more) -> BagSteps:
        seen.append(BagSteps(*given, **more))
        return seen[-1]

    monkeypatch.setattr(session_history, 'BagSteps', noting)
    return seen


def from_cache(opened: list[BagSteps]) -> list[bool]:
    found = [bag.from_cache for bag in opened]
    opened.clear()
    return found


def recorded(tmp_path: Path, later: int) -> list[str]:
    """Record one session more, whose robot was started `later` s after the first one's."""
    session = Session(tmp_path, split_bytes=8_000)
    log = [(topic, stamp + later * 10**9, data) for topic, stamp, data in ticks(60, episodes=3)]
    for first in range(0, len(log), 50):
        session.hear(log[first : first + 50])
        until_s = time.monotonic() + 60.0
        while session.recording.values()['spool_mb']:  # so that files become full
            assert time.monotonic() < until_s
            time.sleep(0.001)
    before = fingerprint(session.recording.history())
    session.close()
    assert before + fingerprint(session.events)[: -len(before) or None]
    return before


def test_each_session_is_decoded_once_whatever_comes_after_it(tmp_path, opened) -> None:
    for number in range(3):
        recorded(tmp_path, 100 * number)
        # The newest of the earlier sessions is new to the cache, the others are not.
        assert from_cache(opened) == [True] * (number - 1) + [False] * (number > 0)
    folder = tmp_path / 'bag'
    assert len(read_metadata(folder).files) > 4
    firsts = read_metadata(folder).custom[SESSIONS].split(',')
    assert len(firsts) == 3
    session = Session(tmp_path)
    whole = fingerprint(session.recording.history())
    assert whole == reread(folder) and len(whole) == 3 * (180 + 3)
    assert from_cache(opened) == [True, True, False]
    # A trainer that is started again.
    assert fingerprint(session.recording.history()) == whole
    assert from_cache(opened) == [True, True, True]
    kept = {f'point_reach.from_{first}.steps' for first in firsts}
    assert {path.name for path in (tmp_path / 'bag.qcfql_cache').glob('*.steps')} == kept
    session.close()
    assert not session.recording.notes()


def test_what_retention_deleted_is_forgotten_and_the_rest_stays_true(tmp_path, opened) -> None:
    for number in range(3):
        recorded(tmp_path, 100 * number)
    folder = tmp_path / 'bag'
    _, second, third = map(int, read_metadata(folder).custom[SESSIONS].split(','))
    metadata = read_metadata(folder)
    gone = [entry for entry in metadata.files if _number(entry.name) <= second]
    metadata.files = [entry for entry in metadata.files if entry not in gone]
    metadata.write(folder)
    for entry in gone:
        (folder / entry.name).unlink()
    opened.clear()
    session = Session(tmp_path)
    left = fingerprint(session.recording.history())
    assert left == reread(folder) and 0 < len(left) < 2 * 183
    assert from_cache(opened) == [False, False]  # part of the second is missing; the third is new
    names = {path.name for path in (tmp_path / 'bag.qcfql_cache').glob('*.steps')}
    assert names == {f'point_reach.from_{number}.steps' for number in (second, third)}
    (note,) = (line for line in session.recording.notes() if 'decoded again' in line)
    assert note.endswith('changed since: recording')
    session.close()


def _number(name: str) -> int:
    return int(name.removesuffix('.mcap').rpartition('_')[2])


def test_a_recording_that_names_no_sessions_is_kept_as_one(tmp_path, opened) -> None:
    for number in range(2):
        recorded(tmp_path, 100 * number)
    metadata = read_metadata(tmp_path / 'bag')
    metadata.custom[SESSIONS] = 'what, ever'
    metadata.write(tmp_path / 'bag')
    opened.clear()
    session = Session(tmp_path)
    assert fingerprint(session.recording.history()) == reread(tmp_path / 'bag')
    assert len(opened) == 1
    session.close()


def test_sessions_are_noted_once_and_in_order() -> None:
    custom: dict[str, str] = {}
    for first in (0, 3, 3, 12):
        note_session(custom, first)
    assert custom == {SESSIONS: '0,3,12'}
