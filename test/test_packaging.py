"""What is installed is complete, starts without what a robot does not have, and is what the documents say."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import vlm_agent_ros

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ('vlm_agent_ros', 'sim_worlds', 'training')
# Name of a distribution where it differs from what is imported.
DISTRIBUTIONS = {'PIL': 'pillow', 'yaml': 'pyyaml', 'pinocchio': 'pin', 'pybullet_data': 'pybullet',
                 'pybullet_utils': 'pybullet', 'mcap_ros2': 'mcap-ros2-support', 'panda_gym': 'panda-gym'}
ROS_PACKAGES = {'builtin_interfaces', 'diagnostic_msgs', 'launch', 'launch_ros', 'lifecycle_msgs', 'rcl_interfaces',
                'rclpy', 'rosgraph_msgs', 'sensor_msgs', 'std_msgs', 'std_srvs', 'trajectory_msgs'}


def imports_of(path: Path) -> set[str]:
    """Top-level names of what a Python file imports from elsewhere."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split('.')[0])
    return names - set(sys.stdlib_module_names)


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob('*.py'))


def requirements(*extras: str) -> set[str]:
    """Names of the distributions that setup.py requires, with the given extras."""
    names = set()
    for requirement in importlib.metadata.requires('vlm_agent_ros') or []:
        extra = re.search(r'extra == "(\w+)"', requirement)
        if extra is None or extra[1] in extras:
            names.add(re.split(r'[^\w.-]', requirement)[0].lower())
    return names


def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / 'package.xml').getroot()


def test_every_file_tells_the_same_version() -> None:
    version = vlm_agent_ros.__version__
    assert manifest().findtext('version') == version
    assert importlib.metadata.version('vlm_agent_ros') == version
    changelog = (ROOT / 'CHANGELOG.rst').read_text(encoding='utf-8')
    headings = re.findall(r'^(Forthcoming|\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\))$', changelog, re.MULTILINE)
    assert headings[0] == 'Forthcoming' or headings[0].startswith(f'{version} ')


def test_package_xml_is_a_valid_ament_python_manifest() -> None:
    root = manifest()
    assert root.get('format') == '3'
    assert root.findtext('name') == 'vlm_agent_ros'
    assert root.findtext('export/build_type') == 'ament_python'
    # With an invalid address colcon silently builds a plain Python package, which ros2 cannot find.
    assert re.fullmatch(r'[\w.+-]+@([\w-]+\.)+[\w-]+', root.find('maintainer').get('email', ''))
    assert root.findtext('license') == 'Apache-2.0'


def test_package_xml_names_every_ros_package_that_is_imported() -> None:
    imported = set().union(*(imports_of(path) for path in sources(*PACKAGES, 'launch')))
    declared = {element.text for element in manifest().findall('exec_depend')}
    assert imported & ROS_PACKAGES <= declared
    messages = {name for name in declared if name.endswith(('_msgs', '_srvs', '_interfaces'))}
    assert messages <= imported, 'package.xml names message packages that nothing imports'


@pytest.mark.parametrize(('folders', 'extras'), [
    (('vlm_agent_ros',), ()), (('sim_worlds',), ('sim',)), (('training',), ('sim', 'train', 'bench', 'cluster')),
])
def test_setup_names_everything_else_that_is_imported(folders: tuple[str, ...], extras: tuple[str, ...]) -> None:
    imported = set().union(*(imports_of(path) for path in sources(*folders)))
    needed = {DISTRIBUTIONS.get(name, name).lower() for name in imported - ROS_PACKAGES - set(PACKAGES)}
    assert needed <= requirements(*extras)


def test_the_lock_file_pins_what_setup_names() -> None:
    lines = (ROOT / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    pinned = {line.split('==')[0] for line in lines if '==' in line}
    assert requirements('sim', 'train', 'ros', 'bench', 'cluster', 'dev') <= pinned


def test_the_core_never_imports_rclpy() -> None:
    """Only nodes, those of the simulated cells, the cell check, the line of a pilot and the ROS transport of
    the trainer know ROS."""
    adapters = {path for path in sources(*PACKAGES) if {'nodes', 'cell_check'} & {*path.relative_to(ROOT).parts}
                or path.name in ('world_node.py', 'emulator_node.py', 'ros_worlds.py', 'world_link.py', 'cell_line.py',
                                    'ping_pong.py', 'proposal_latency.py')}
    for path in set(sources(*PACKAGES)) - adapters:
        assert not imports_of(path) & (ROS_PACKAGES - {'launch', 'launch_ros'}), path.relative_to(ROOT)


def test_the_robot_side_never_imports_simulator_or_training() -> None:
    for path in sources('vlm_agent_ros'):
        assert not imports_of(path) & {'sim_worlds', 'training', 'pybullet', 'gymnasium'}, path.relative_to(ROOT)


def test_the_robot_side_starts_without_simulator_and_training() -> None:
    modules = ['.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
               for path in sources('vlm_agent_ros')]
    assert 'vlm_agent_ros.nodes.agent_node' in modules
    code = f"""
import importlib, sys

class Without:
    '''A finder that does not find what is not installed on a robot; who only asks is told so, as transformers is.'''

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        missing = ('pybullet', 'pybullet_data', 'gymnasium', 'tensorboard', 'rich', 'training', 'sim_worlds')
        return None if name.split('.')[0] in missing else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for module in {modules!r}:
    importlib.import_module(module)
"""
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('module', [
    'sim_worlds.world_node', 'sim_worlds.cell_emulator.emulator_node', 'sim_worlds.envs',
    'vlm_agent_ros.nodes.gate_node', 'vlm_agent_ros.nodes.audit_node', 'vlm_agent_ros.nodes.operator',
    'vlm_agent_ros.nodes.cot_viewer'])
def test_a_process_without_a_model_never_imports_pytorch(module: str) -> None:
    """It would cost each of them three seconds and 190 MB."""
    code = f"import {module}, sys; print(*(n for n in ('torch', 'transformers', 'scipy') if n in sys.modules))"
    assert imported_by(code) == []


def test_a_world_plays_an_episode_without_pytorch() -> None:
    code = """
import sys
from sim_worlds.expert import demonstrate
from sim_worlds.envs import CellEnv
env = CellEnv('place')
env.reset(seed=0)
assert env.step(demonstrate(env.world.truth()).action)[4]['kpi']['cycle_time'] > 0.5
print(*(name for name in ('torch', 'transformers') if name in sys.modules))
"""
    assert imported_by(code) == []


def imported_by(code: str) -> list[str]:
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_every_executable_resolves() -> None:
    entries = importlib.metadata.distribution('vlm_agent_ros').entry_points.select(group='console_scripts')
    assert {entry.name for entry in entries} == {'agent_node', 'audit_node', 'cell_emulator', 'cot_viewer', 'gate_node',
                                                 'operator', 'trainer', 'vlm-agent', 'world_node'}
    for entry in entries:
        assert callable(entry.load())


@pytest.fixture(scope='module')
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what belongs to the source tree, so that building leaves nothing in it."""
    folder = tmp_path_factory.mktemp('build') / 'vlm_agent_ros'
    folder.mkdir()
    for name in (*PACKAGES, 'config', 'launch', 'models', 'resource'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'package.xml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, folder)
    return folder


def run_setup(checkout: Path, *arguments: str) -> None:
    result = subprocess.run([sys.executable, 'setup.py', '--quiet', *arguments], cwd=checkout, capture_output=True,
                            text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def shared_files() -> set[str]:
    """Everything that an installed node reads besides Python modules, relative to the share folder."""
    found = {str(path.relative_to(ROOT)) for top in ('config', 'launch', 'models') for path in (ROOT / top).rglob('*')
             if path.is_file() and '__pycache__' not in path.parts}
    assert 'config/cells/panda_table.yaml' in found
    assert 'launch/sim_train.launch.py' in found
    assert 'models/tiny_vlm/config.json' in found
    return found


def test_wheel_and_sdist_hold_modules_configuration_launch_files_and_the_model(checkout: Path, tmp_path: Path) -> None:
    run_setup(checkout, 'bdist_wheel', '--dist-dir', str(tmp_path), 'sdist', '--dist-dir', str(tmp_path))
    wheel = set(zipfile.ZipFile(next(tmp_path.glob('*.whl'))).namelist())
    with tarfile.open(next(tmp_path.glob('*.tar.gz'))) as archive:
        sdist = {name.partition('/')[2] for name in archive.getnames()}
    modules = {str(path.relative_to(ROOT)) for path in sources(*PACKAGES)}
    data = f'vlm_agent_ros-{vlm_agent_ros.__version__}.data/data/share/vlm_agent_ros'
    assert modules <= wheel
    assert {f'{data}/{name}' for name in shared_files() | {'package.xml'}} <= wheel
    assert modules | shared_files() | {'package.xml', 'setup.py', 'resource/vlm_agent_ros'} <= sdist


def test_an_ament_installation_has_executables_and_shared_files_where_ros2_looks(checkout: Path, tmp_path: Path
                                                                                 ) -> None:
    """As colcon calls it; ``ros2 run`` looks in lib/<package>, ``ros2 launch`` in share/<package>."""
    run_setup(checkout, 'install', '--prefix', str(tmp_path), '--single-version-externally-managed', '--record',
              str(tmp_path / 'installed.txt'))
    for name in ('agent_node', 'audit_node', 'gate_node', 'world_node', 'cot_viewer', 'operator', 'trainer'):
        assert os.access(tmp_path / 'lib' / 'vlm_agent_ros' / name, os.X_OK)
    share = tmp_path / 'share' / 'vlm_agent_ros'
    assert all((share / name).is_file() for name in shared_files() | {'package.xml'})
    assert (tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages' / 'vlm_agent_ros').is_file()


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith('MAKE')}
    return subprocess.run(['make', *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def test_make_refuses_a_python_without_simulator_in_one_sentence(tmp_path: Path) -> None:
    other = tmp_path / 'python'
    other.write_text('#!/bin/sh\nexit 1\n')
    other.chmod(0o755)
    result = make(f'PYTHON={other}', 'setup')
    assert result.returncode != 0
    assert 'needs Python 3.10 or 3.11' in result.stderr
    assert 'Traceback' not in result.stderr


def test_make_passes_seed_and_options_to_the_trainer() -> None:
    assert 'bin/vlm-agent train --seed 3 --worlds 2' in make('-n', 'sim-train', 'SEED=3', 'ARGS=--worlds 2').stdout


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / '.ci' / 'run').read_text(encoding='utf-8')
    command = script.strip().splitlines()[-1]
    assert command == 'make test'
    assert re.search(rf'^{command}\b', (ROOT / 'README.md').read_text(encoding='utf-8'), re.MULTILINE)
    assert os.access(ROOT / '.ci' / 'run', os.X_OK)


@pytest.mark.parametrize('path', sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')]), ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r'\]\(([^)#]+)[^)]*\)', path.read_text(encoding='utf-8')):
        if '://' not in target:
            assert (path.parent / target).exists(), target


def test_the_readme_shows_measured_figures() -> None:
    assert '@@' not in (ROOT / 'README.md').read_text(encoding='utf-8')
