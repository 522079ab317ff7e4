# SPDX-License-Identifier: Apache-2.0
"""The package as others install it: names, versions, entry points, files."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import qcfql_ros
from qcfql_ros.cli.main import VERBS

ROOT = Path(__file__).resolve().parent.parent
VERSION = '0.1.0'


@pytest.fixture(scope='module')
def setup_arguments():
    """Return the keyword arguments of setup()."""
    code = (
        'import json, setuptools\n'
        'setuptools.setup = lambda **kwargs: print(json.dumps(kwargs))\n'
        'exec(compile(open("setup.py").read(), "setup.py", "exec"), {"__file__": "setup.py"})'
    )
    import json

    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return json.loads(done.stdout)


def test_the_version_is_the_same_everywhere(setup_arguments):
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    assert manifest.findtext('version') == VERSION
    assert setup_arguments['version'] == VERSION
    assert qcfql_ros.__version__ == VERSION
    assert re.search(rf'^## {re.escape(VERSION)}', (ROOT / 'CHANGELOG.md').read_text(), re.M)


def test_package_xml_is_what_colcon_takes_for_an_ament_python_package():
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    assert manifest.get('format') == '3'
    assert manifest.findtext('export/build_type') == 'ament_python'
    maintainer = manifest.find('maintainer')
    # colcon takes a package with an invalid address for plain Python, silently.
    assert re.fullmatch(r'[-\w.+%]+@[-\w%]+(\.[-\w%]+)*\.[a-zA-Z]{2,}', maintainer.get('email'))
    assert maintainer.text.strip()
    assert (ROOT / 'resource' / manifest.findtext('name')).exists()


def test_every_entry_point_can_be_imported(setup_arguments):
    for entry in setup_arguments['entry_points']['console_scripts']:
        _, _, target = entry.partition(' = ')
        module, _, function = target.partition(':')
        assert callable(getattr(importlib.import_module(module), function))


def test_ros_executables_are_installed_where_ros2_run_looks():
    text = (ROOT / 'setup.cfg').read_text()
    assert text.count('$base/lib/qcfql_ros') == 2


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_has_help_and_arguments(verb):
    module = importlib.import_module(f'qcfql_ros.cli.{verb.replace("-", "_")}')
    assert module.__doc__
    assert callable(module.add_arguments)
    assert callable(module.run)


@pytest.mark.parametrize('folder', ['launch', 'config'])
def test_every_shipped_file_is_installed(setup_arguments, folder):
    installed = {name for _, names in setup_arguments['data_files'] for name in names}
    files = [path for path in (ROOT / folder).rglob('*') if path.is_file()]
    files = [path for path in files if '__pycache__' not in path.parts]
    assert files
    assert {str(path.relative_to(ROOT)) for path in files} <= installed


def test_the_wheels_are_no_hard_requirement(setup_arguments):
    assert not [name for name in setup_arguments['install_requires'] if 'ros' in name]
    for distro in ('jazzy', 'kilted'):
        pins = setup_arguments['extras_require'][f'ros-{distro}']
        assert all('==' in pin for pin in pins)


def test_files_are_short_enough_to_read():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / 'qcfql_ros').rglob('*.py')
        if (lines := len(path.read_text(encoding='utf-8').splitlines())) > 450
    }
    assert not long


def test_every_source_file_names_its_licence():
    for folder in ('qcfql_ros', 'launch', 'test', 'tools'):
        for path in (ROOT / folder).rglob('*.py'):
            text = path.read_text(encoding='utf-8')
            assert not text or text.startswith('# SPDX-License-Identifier: Apache-2.0\n'), path
