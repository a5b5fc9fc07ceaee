"""Configuration files are read strictly: what is wrong is named by file and key, with the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vlm_agent_ros.config import bounded, find_config, load_yaml, parse, resource_root
from vlm_agent_ros.errors import UserError


@dataclass(frozen=True)
class Inner:
    rate: float = bounded(1e-3, low=0.0, high=1.0, help='learning rate')


@dataclass(frozen=True)
class Example:
    name: str
    count: int = bounded(3, low=1, high=5)
    ratio: float = bounded(0.5, low=0.0)
    mode: str = bounded('a', choices=('a', 'b'))
    flag: bool = False
    corner: tuple[float, float] = bounded((0.0, 1.0), low=-1.0, high=1.0)
    names: tuple[str, ...] = ()
    weights: dict[str, float] = bounded({})
    limit: float | None = None
    inner: Inner = Inner()


def read(**values: Any) -> Example:
    return parse(Example, {'name': 'x', **values}, 'file.yaml')


def test_values_of_every_supported_type_are_read() -> None:
    example = read(count=5, ratio=2, mode='b', flag=True, corner=[-1, 0.5], names=['p', 'q'], weights={'k': 1},
                   limit=0.25, inner={'rate': '1e-4'})
    assert example == Example('x', 5, 2.0, 'b', True, (-1.0, 0.5), ('p', 'q'), {'k': 1.0}, 0.25, Inner(1e-4))
    assert isinstance(example.ratio, float)
    assert read(limit=None).limit is None


def test_defaults_of_two_instances_are_not_shared() -> None:
    first, second = read(), read()
    first.weights['k'] = 1.0
    assert second.weights == {}


@pytest.mark.parametrize(('values', 'message'), [
    ({'cuont': 3}, r"file\.yaml: unknown key 'cuont'; known keys are corner, count"),
    ({'inner': {'rat': 1}}, r"file\.yaml: inner: unknown key 'rat'"),
    ({'count': 0}, r'file\.yaml: count is 0, but must be between 1 and 5'),
    ({'ratio': -0.1}, r'ratio is -0\.1, but must be at least 0\.0'),
    ({'ratio': float('nan')}, r'ratio is nan, but must be a finite number'),
    ({'ratio': float('inf')}, r'ratio is inf, but must be a finite number'),
    ({'weights': {'k': float('nan')}}, r'weights\.k is nan, but must be a finite number'),
    ({'weights': {1: 0.5}}, r'key 1 of file\.yaml: weights must be of type str'),
    ({'corner': [0, 1.5]}, r'corner is 1\.5, but must be between'),
    ({'corner': [0, 1, 2]}, r'corner must have 2 entries, got 3'),
    ({'corner': 3}, r'corner must be a list'),
    ({'mode': 'c'}, r"mode is 'c', but must be one of a, b"),
    ({'count': 2.5}, r'count must be of type int, got 2\.5'),
    ({'count': True}, r'count must be of type int, got True'),
    ({'flag': 1}, r'flag must be of type bool, got 1'),
    ({'ratio': 'high'}, r"ratio must be of type float, got 'high'"),
    ({'names': ['p', 1]}, r'names\[1\] must be of type str, got 1: put it in quotes'),
    ({'weights': {'k': 'x'}}, r"weights\.k must be of type float, got 'x'"),
    ({'weights': [1]}, r'weights must be a mapping'),
    ({'inner': 3}, r'file\.yaml: inner: expected a mapping'),
    ({'inner': {'rate': 2.0}}, r'file\.yaml: inner: rate is 2\.0, but must be between'),
])
def test_what_is_wrong_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(**values)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UserError, match=r"file\.yaml: key 'name' is missing"):
        parse(Example, {}, 'file.yaml')


def test_a_key_that_is_there_twice_is_refused_and_merged_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / 'twice.yaml'
    path.write_text('safety: {max_tool_speed: 0.2}\nname: x\nsafety:\n  max_rate_hz: 3\n')
    with pytest.raises(UserError, match=r"twice\.yaml: key 'safety' is there twice, again at line 3: keep one"):
        load_yaml(path)
    path.write_text('a: {b: 1, b: 2}\n')
    with pytest.raises(UserError, match=r"key 'b' is there twice"):
        load_yaml(path)
    path.write_text('base: &base {b: 1, c: 2}\nmine: {<<: *base, b: 3}\n')
    assert load_yaml(path)['mine'] == {'b': 3, 'c': 2}


@pytest.mark.parametrize('number', ['036', '1:30', '-007', '1:30.5', '0_7'])
def test_a_number_that_yaml_reads_as_another_one_is_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / 'numbers.yaml'
    path.write_text(f'a: 1\nb: {number}\n')
    with pytest.raises(UserError, match=rf'numbers\.yaml: {number} at line 2 would be read as .*decimal'):
        load_yaml(path)
    path.write_text('a: [0, 10, -3, 0.5, 1_000, 0x10, 1.0e-4]\n')
    assert load_yaml(path)['a'] == [0, 10, -3, 0.5, 1000, 16, 1e-4]


def test_a_number_too_large_to_be_one_is_refused() -> None:
    for values in ({'ratio': 10**400}, {'count': 10**400}):
        with pytest.raises(UserError, match=r'file\.yaml: (ratio has 401 digits|count is 1000)'):
            read(**values)


def test_a_file_that_is_no_mapping_or_no_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'broken.yaml'
    for content, message in (('- 1\n', 'must hold a mapping'), ('a: [1\nb: 2\n', 'is not valid YAML at line 2'),
                             ('', 'must hold a mapping'), ('day: 2031-02-30\n', 'is not valid YAML'),
                             (f'grid: {"9" * 5000}\n', 'is not valid YAML')):
        path.write_text(content)
        with pytest.raises(UserError, match=rf'broken\.yaml {message}'):
            load_yaml(path)
    path.write_bytes(b'a: \xff\xfe\n')
    with pytest.raises(UserError, match='not valid YAML'):
        load_yaml(path)
    with pytest.raises(UserError, match='cannot be read'):
        load_yaml(tmp_path)


def test_a_file_is_found_by_shipped_name_and_by_path(tmp_path: Path) -> None:
    shipped = find_config('cells', 'panda_table')
    assert shipped == resource_root() / 'config' / 'cells' / 'panda_table.yaml'
    own = tmp_path / 'mine.yaml'
    own.write_text('name: mine\n')
    assert find_config('cells', str(own)) == own


def test_a_name_that_does_not_exist_is_answered_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no cells file named 'pandas_table': choose one of .*panda_table"):
        find_config('cells', 'pandas_table')
    with pytest.raises(UserError, match=r'missing\.yaml does not exist'):
        find_config('cells', str(tmp_path / 'missing.yaml'))


def test_shipped_files_are_found_in_a_sourced_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vlm_agent_ros.config as config

    share = tmp_path / 'install' / 'share' / 'vlm_agent_ros'
    (share / 'config' / 'cells').mkdir(parents=True)
    monkeypatch.setattr(config, '__file__', str(tmp_path / 'lib' / 'vlm_agent_ros' / 'config.py'))
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'{tmp_path / "other"}:{tmp_path / "install"}')
    assert resource_root() == share


def test_an_installation_without_its_data_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vlm_agent_ros.config as config

    monkeypatch.setattr(config, '__file__', str(tmp_path / 'lib' / 'vlm_agent_ros' / 'config.py'))
    monkeypatch.setattr(config.sys, 'prefix', str(tmp_path))
    monkeypatch.setenv('AMENT_PREFIX_PATH', '')
    with pytest.raises(UserError, match='reinstall'):
        resource_root()
