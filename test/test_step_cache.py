# SPDX-License-Identifier: Apache-2.0
"""Steps kept beside a bag: the same steps, or none; never wrong ones, never an error."""

import fcntl
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_ticks import CONTRACT
from test_step_block import plain, sequences
from train_runs import record_bag, tear

from qcfql_ros.data import step_cache, step_sink
from qcfql_ros.data.bag_steps import BagSteps, load_bags, open_bags
from qcfql_ros.data.damage import Damage
from qcfql_ros.data.dataset import load_dataset
from qcfql_ros.data.labels import Label, Labels, write_labels
from qcfql_ros.data.step_block import blocks_of_events
from qcfql_ros.data.step_file import StepFile, StepFileWriter
from qcfql_ros.data.steps import SegmentEnd, Step
from qcfql_ros.errors import BagError


@pytest.fixture(scope='module')
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_bag(tmp_path_factory.mktemp('recorded') / 'bag')


@pytest.fixture
def bag(recorded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(recorded, tmp_path / 'bag')


def steps_file(bag: Path) -> Path:
    return bag.parent / 'bag.qcfql_cache' / 'point_reach.steps'


def loaded(bag: Path, **more) -> BagSteps:
    opened = BagSteps(bag, CONTRACT, **more)
    opened.load()
    return opened


def events(bag: BagSteps) -> list:
    return [plain(event) for block in bag.blocks() for event in block.events()]


def plainly_read(bag: Path) -> list:
    return [plain(event) for event in load_dataset(bag, CONTRACT)]


def file_of(blocks) -> bytes:
    written = bytearray()
    writer = StepFileWriter(written.extend)
    for block in blocks:
        writer.add(block)
    writer.finish({'of': 'a test'})
    return bytes(written)


@settings(max_examples=150, deadline=None)
@given(sequences(), st.sampled_from([1, 3, 100]))
def test_blocks_come_back_bit_for_bit_as_often_as_wanted(made, most) -> None:
    kept = StepFile(file_of(blocks_of_events(made, 3, 2, most)))
    for _ in range(2):
        again = [plain(event) for block in kept.blocks() for event in block.events()]
        assert again == [plain(event) for event in made]
    assert kept.about == {'of': 'a test'}
    assert kept.steps + kept.segments == len(made)


@st.composite
def damaged(draw, data: bytes) -> bytes:
    at = draw(st.integers(0, len(data) - 1))
    length = draw(st.integers(1, 40))
    kind = draw(st.sampled_from(['flip', 'cut', 'zero', 'insert', 'remove']))
    if kind == 'flip':
        return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
    if kind == 'cut':
        return data[:at]
    if kind == 'zero':
        return data[:at] + bytes(len(data[at : at + length])) + data[at + length :]
    middle = draw(st.binary(min_size=1, max_size=40)) if kind == 'insert' else b''
    return data[:at] + middle + data[at if kind == 'insert' else at + length :]


@settings(max_examples=400, deadline=None)
@given(st.data(), sequences())
def test_a_damaged_file_gives_its_steps_or_none(data, made) -> None:
    whole = file_of(blocks_of_events(made, 3, 2, 5))
    try:
        kept = StepFile(data.draw(damaged(whole)))
    except ValueError as error:
        assert str(error)
        return
    again = [plain(event) for block in kept.blocks() for event in block.events()]
    assert again == [plain(event) for event in made]


def test_each_byte_of_a_file_is_guarded() -> None:
    events = [
        Step(1, np.ones(3, np.float32), np.ones(2, np.float32), 0.5, False),
        SegmentEnd(np.zeros(3, np.float32), True, 'gap'),
    ]
    whole = file_of(blocks_of_events(events, 3, 2))
    for at in range(len(whole)):
        bad = bytearray(whole)
        bad[at] ^= 1
        with pytest.raises(ValueError, match=r'checksum mismatch|its end|begin as one'):
            StepFile(bytes(bad))


def test_a_second_load_decodes_nothing_and_says_the_same(bag: Path, monkeypatch) -> None:
    first = loaded(bag)
    assert not first.from_cache and not first.notes
    monkeypatch.setattr('qcfql_ros.data.mcap_file.McapFile.chunks', None)
    second = loaded(bag)
    assert second.from_cache and not second.notes
    monkeypatch.undo()
    assert events(second) == events(first) == plainly_read(bag)
    assert second.counters == first.counters and second.counters['steps'] == second.steps == 290
    assert second.segments == 25
    assert 'kept from before' in str(second) and 'decoded in' in str(first)


def test_what_a_torn_bag_left_out_is_said_from_the_cache_too(bag: Path) -> None:
    tear(bag)
    first, second = loaded(bag), loaded(bag)
    assert second.from_cache and first.damage and 0 < first.steps < 290
    assert str(second.damage) == str(first.damage)
    assert isinstance(second.damage, Damage) and second.damage == first.damage
    assert events(second) == events(first)


def touch(bag: Path) -> None:
    os.utime(bag / 'bag_0.mcap', ns=(1, 1))


def swap(bag: Path) -> None:
    split = bag / 'bag_0.mcap'
    about, data = split.stat(), bytearray(split.read_bytes())
    data[40] ^= 1  # in the name of the library
    split.write_bytes(data)
    os.utime(split, ns=(about.st_atime_ns, about.st_mtime_ns))


def rename(bag: Path) -> None:
    about = (bag / 'metadata.yaml').read_text()
    (bag / 'bag_0.mcap').rename(bag / 'bag_1.mcap')
    (bag / 'metadata.yaml').write_text(about.replace('bag_0.mcap', 'bag_1.mcap'))


def other_namespace(bag: Path) -> None:
    about = bag / 'metadata.yaml'
    changed = about.read_text().replace("qcfql.namespace: ''", "qcfql.namespace: 'left'")
    assert changed != about.read_text()
    about.write_text(changed)


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (touch, 'recording'),
        (swap, 'recording'),
        (rename, 'recording'),
        (other_namespace, 'custom data'),
        (lambda bag: (bag.parent / 'bag.labels.yaml').write_text('episodes: []'), 'labels'),
    ],
)
def test_steps_are_decoded_again_when_the_bag_changed(bag: Path, change, says: str) -> None:
    loaded(bag)
    change(bag)
    again = loaded(bag)
    assert not again.from_cache
    assert again.notes[-1] == f'{bag}: decoded again: changed since: {says}'
    assert loaded(bag).from_cache


def test_steps_are_decoded_again_when_program_or_contract_changed(bag, monkeypatch) -> None:
    loaded(bag)
    monkeypatch.setattr(step_cache, 'program_digest', lambda: 'other')
    assert loaded(bag).notes == [f'{bag}: decoded again: changed since: program']
    assert loaded(bag).from_cache
    opened = StepFile(steps_file(bag).read_bytes())
    key = opened.about['of'] | {'contract': 'other'}
    with steps_file(bag).open('wb') as stream:
        writer = StepFileWriter(stream.write)
        writer.finish({**opened.about, 'of': key})
    assert loaded(bag).notes == [f'{bag}: decoded again: changed since: contract']


def test_each_contract_keeps_its_own_steps(bag: Path) -> None:
    loaded(bag)
    other = step_cache.StepCache(bag, [], replace(CONTRACT, name='other/one'), [])
    assert other.path == steps_file(bag).with_name('other_one.steps')
    assert other.read() is None and other.why_not == ''


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_kept_steps_are_made_again(data, recorded: Path) -> None:
    whole = loaded(recorded)
    path = steps_file(recorded)
    kept = path.read_bytes()
    bad = data.draw(damaged(kept))
    path.unlink()  # one that is in use is never changed, only replaced
    path.write_bytes(bad)
    again = loaded(recorded)
    assert again.from_cache == (bad == kept)
    if not again.from_cache:
        (note,) = again.notes
        assert 'decoded again: the kept steps are damaged: ' in note
    assert events(again) == events(whole)
    assert loaded(recorded).from_cache


def test_deleted_while_in_use_or_before_is_no_error(bag: Path) -> None:
    loaded(bag)
    opened = loaded(bag)
    assert opened.from_cache
    shutil.rmtree(steps_file(bag).parent)
    assert events(opened) == plainly_read(bag)
    again = loaded(bag)
    assert not again.from_cache and not again.notes
    assert loaded(bag).from_cache


def test_without_a_cache_nothing_is_left_beside_the_bag(bag: Path) -> None:
    assert events(loaded(bag, cache=False)) == plainly_read(bag)
    assert [path.name for path in bag.parent.iterdir()] == ['bag']


def test_a_place_that_cannot_be_written_costs_a_line(bag: Path) -> None:
    steps_file(bag).parent.write_text('not a folder')
    for _ in range(2):
        opened = loaded(bag)
        assert not opened.from_cache and events(opened) == plainly_read(bag)
        assert any('steps not kept beside it: ' in note for note in opened.notes)


def test_a_disk_that_becomes_full_costs_a_line(bag: Path, monkeypatch) -> None:
    free = iter([1 << 40] * 2)
    monkeypatch.setattr(step_sink, '_free', lambda folder: next(free, 0))
    opened = loaded(bag)
    assert opened.notes == [f'{bag}: steps not kept beside it: less than 256 MiB are free']
    assert events(opened) == plainly_read(bag)
    assert [path.name for path in steps_file(bag).parent.iterdir()] == ['CACHEDIR.TAG']


def test_no_room_anywhere_is_no_error(bag: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        opened = loaded(bag)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert opened.notes == [f'{bag}: steps not kept beside it: File too large']
    assert events(opened) == plainly_read(bag)


def test_what_left_nothing_out_is_not_called_unused(bag: Path) -> None:
    opened = loaded(bag)
    assert 'not used' not in str(opened) and 'counted' not in str(opened)
    opened.counters.update(clock_set_back=1, bad_message=2, restart=0, duplicate=0)
    assert str(opened).endswith('; not used: 2 bad message; counted: 1 clock set back')


def test_a_bag_that_is_being_written_is_not_kept(bag: Path) -> None:
    (bag / 'bag_1.mcap.active').write_bytes(b'')
    assert events(loaded(bag)) == plainly_read(bag)
    assert not steps_file(bag).parent.exists()


def test_labels_are_looked_at_where_they_are_read(bag: Path, tmp_path: Path) -> None:
    (bag / 'inner').mkdir()
    (tmp_path / 'far').mkdir()
    (tmp_path / 'far' / 'link').symlink_to(bag / 'inner')
    named = tmp_path / 'far' / 'link' / '..'
    assert not loaded(named).from_cache and loaded(bag).from_cache
    write_labels(named, Labels(0, (Label(0.0, 1.0, 'abort'),)))
    assert loaded(named).notes[-1] == f'{named}: decoded again: changed since: labels'
    assert loaded(bag).from_cache


def test_a_bag_that_changes_while_it_is_read_is_not_kept(bag: Path) -> None:
    opened = BagSteps(bag, CONTRACT)
    touch(bag)
    opened.load()
    assert opened.notes == [f'{bag}: steps not kept beside it: the recording changed meanwhile']
    assert not steps_file(bag).exists()


def test_what_stopped_processes_left_is_removed_and_nothing_else(bag: Path) -> None:
    folder = steps_file(bag).parent
    folder.mkdir()
    left, living = folder / '.point_reach.steps.1.part', folder / '.point_reach.steps.2.part'
    left.write_bytes(b'half')
    with living.open('wb') as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        loaded(bag)
        assert not left.exists() and living.exists()


def test_a_reader_that_stops_half_way_leaves_nothing(bag: Path, monkeypatch) -> None:
    opened = BagSteps(bag, CONTRACT)

    def stop(self, block) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StepFileWriter, 'add', stop)
    with pytest.raises(KeyboardInterrupt):
        opened.load()
    assert [path.name for path in steps_file(bag).parent.iterdir()] == ['CACHEDIR.TAG']


TWICE = """
import sys
from pathlib import Path
from qcfql_ros.contract import load_contract
from qcfql_ros.data.bag_steps import BagSteps
for _ in range(100):
    bag = BagSteps(Path(sys.argv[1]), load_contract('point_reach'))
    bag.load()
    assert sum(map(len, bag.blocks())) == 290
    assert not bag.notes, bag.notes
    bag._cache.path.unlink(missing_ok=True)
"""


def test_several_processes_at_once_are_no_error(bag: Path) -> None:
    command = [sys.executable, '-c', TWICE, str(bag)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for process in running:
        assert process.communicate(timeout=120)[1] == b'' and process.returncode == 0
    assert [path.name for path in steps_file(bag).parent.iterdir()] == ['CACHEDIR.TAG']


def test_all_unfit_bags_are_named_and_empty_ones_too(bag: Path, tmp_path: Path) -> None:
    for name in ('other', 'torn', 'fine'):
        shutil.copytree(bag, tmp_path / name)
    about = tmp_path / 'other' / 'metadata.yaml'
    about.write_text(about.read_text().replace(CONTRACT.hash, 'f' * 64))
    (tmp_path / 'torn' / 'metadata.yaml').write_text('rosbag2_bagfile_information: 3')
    with pytest.raises(BagError) as caught:
        open_bags(tmp_path, CONTRACT)
    assert 'other was recorded under contract' in str(caught.value)
    assert 'torn/metadata.yaml is not what rosbag2 writes' in str(caught.value)
    for name in ('other', 'torn'):
        shutil.rmtree(tmp_path / name)
    for name in ('empty', 'none'):
        split = shutil.copytree(bag, tmp_path / name) / 'bag_0.mcap'
        split.write_bytes(split.read_bytes()[:5000])
    seen: list[float] = []
    opened = open_bags(tmp_path, CONTRACT)
    with pytest.raises(
        BagError, match=r'no step to learn from in .*empty: 0 .*left out .*none: 0'
    ):
        load_bags(opened, seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0
