"""The command line: flags over YAML, and one sentence for whatever is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from training.cli import config_overrides, main, parse_arguments, without_ros_arguments
from training.config import TrainConfig, as_mapping, load_train_config, unread
from training.rl.train import configuration
from vlm_agent_ros.config import find_config, load_yaml, parse
from vlm_agent_ros.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def sentence(capsys, *arguments):
    """What a command that must fail says."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == '' and captured.err.count('\n') == 1 and 'Traceback' not in captured.err
    return captured.err


def yaml_file(folder, **content):
    path = folder / 'mine.yaml'
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_flags_override_the_file_and_the_file_overrides_the_defaults(tmp_path):
    path = yaml_file(tmp_path, clip=0.25, epochs=7)
    config = load_train_config(path, {'epochs': 2, 'attach': ['a'], 'worlds': 1})
    assert (config.clip, config.epochs, config.attach, config.gamma) == (0.25, 2, ('a',), TrainConfig().gamma)


def test_an_option_that_the_others_leave_without_effect_is_told():
    def told(**given):
        return unread(load_train_config('ppo', given), given)
    assert told(guard_coef=0.0, guard_replay=3.0) == ['guard_replay has no effect while guard_coef is off']
    assert told(step_weight=2.0) == ['step_weight has no effect with algorithm ppo: it is for gigpo']
    assert told(algorithm='turn_ppo', baseline='group', group_size=4, token_gamma=0.9) == [
        'baseline has no effect with algorithm turn_ppo: it is for ppo']
    assert told(guard_coef=0.0, guard_replay=0.0, gae_lambda=0.5, thought_weight=0.2) == []


def test_a_list_that_holds_what_begins_like_an_option_is_given_as_json():
    def actions(*words):
        return config_overrides(parse_arguments(['train', '--actions', *words]))['actions']
    assert actions('["-left", "mid"]') == ['-left', 'mid']
    assert actions('+', '-') == ['+', '-']
    with pytest.raises(UserError, match='is no JSON list'):
        actions('["-left"')


def test_a_configuration_survives_its_way_through_json():
    config = TrainConfig(attach=('a', 'b'), worlds=2)
    assert parse(TrainConfig, as_mapping(config), 'json') == config


def test_the_shipped_files_are_valid():
    assert load_train_config('ppo', {}).world != ''


def test_every_option_has_a_line_of_help():
    text = subprocess.run([sys.executable, '-m', 'training', 'train', '--help'], capture_output=True, text=True,
                          check=True).stdout
    assert '--thought-weight' in text and '--no-constrained' in text and 'λ' in text


def test_help_does_not_load_pytorch():
    code = "import sys, training.cli; assert 'torch' not in sys.modules and 'pybullet' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize(('arguments', 'said'), [
    (['train', '--clip', '7'], 'clip is 7'),
    (['train', '--clip', 'wide'], 'clip must be of type float'),
    (['train', '--clip', '['], "clip must be of type float, got '['"),
    (['train', '--seed', '-1'], 'seed is -1'),
    (['train', '--worlds', '1:30'], "worlds must be of type int, got '1:30'"),
    (['train', '--seed', '2026-13-45'], "seed must be of type int, got '2026-13-45'"),
    (['train', '--ratio-level', 'word'], 'decision, token'),
    (['train', '--worlds', '6', '--group-size', '4'], 'multiple of group_size'),
    (['train', '--baseline', 'group', '--group-size', '1'], 'group_size'),
    (['train', '--config', 'nothing'], 'nothing'),
    (['train', '--run-name', '../x'], 'run_name'),
    (['train', '--transport', 'in-process', '--task', 'juggle'], 'juggle'),
    (['train', '--transport', 'in-process', '--world', 'mars'], 'mars'),
    (['train', '--unknown', '1'], '--unknown'),
    (['train', '--resume', '/nowhere/step_000001'], '/nowhere/step_000001'),
    (['train', '--resume', '/nowhere', '--config', 'ppo'], 'exclude'),
    (['evaluate', '--episodes', '0'], '--episodes'),
    (['evaluate', '--task', 'juggle'], 'juggle'),
    (['evaluate', '--checkpoint', '/nowhere'], '/nowhere'),
    (['evaluate', '--out', '.', '--transport', 'in-process'], 'is a directory'),
    (['record', '--out', '/proc/x.npz'], '/proc/x.npz'),
    (['record', '--episodes', '-1'], '--episodes'),
    (['record', '--workers', '0'], '--workers'),
    (['record', '--model', 'nothing'], 'nothing'),
    (['evaluate', '--split', 'hidden'], 'unseen-cell'),
    (['keygen', '--out', '.'], '. is no name for keys'),
    (['keygen', '--out', '..'], '.. is no name for keys'),
    (['fly'], 'fly'),
    ([], 'COMMAND'),
])
def test_bad_input_ends_in_one_sentence(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert said in sentence(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_number_on_the_command_line_is_the_one_that_it_looks_like():
    given = config_overrides(parse_arguments(['train', '--seed', '010', '--worlds', '1_000', '--clip', '.2',
                                              '--learning-rate', '1e-4']))
    assert given == {'seed': 10, 'worlds': 1000, 'clip': 0.2, 'learning_rate': 1e-4}


@pytest.mark.parametrize('command', [
    'evaluate', 'compare a b', 'ablate grid', 'pilot plan', 'export checkpoint --key k', 'replay log',
    'incident log --at 0', 'record', 'sft', 'keygen', 'cell-check', 'bench'])
def test_a_path_may_begin_with_the_home_folder_where_the_shell_has_left_it(monkeypatch, tmp_path, command):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert parse_arguments([*command.split(), '--out=~/results/mine']).out == tmp_path / 'results' / 'mine'


def test_a_file_that_may_not_be_read_is_named_in_one_sentence(capsys, tmp_path, monkeypatch):
    def refuse(self, **_):
        raise PermissionError(13, 'Permission denied', str(self))
    monkeypatch.setattr(Path, 'exists', refuse)
    assert 'may not be used (Permission denied)' in sentence(capsys, 'evaluate', '--transport', 'in-process',
                                                              '--checkpoint', str(tmp_path / 'locked'))


def test_a_world_of_another_grid_than_the_own_one_is_told_how_to_be_trained_in(capsys, tmp_path):
    cell = load_yaml(find_config('cells', 'panda_table'))
    (tmp_path / 'cell.yaml').write_text(yaml.safe_dump({**cell, 'grid': 32}))
    shipped = load_yaml(find_config('worlds', 'panda_table'))
    world = yaml_file(tmp_path, **{**shipped, 'cell': str(tmp_path / 'cell.yaml')})
    error = sentence(capsys, 'train', '--transport', 'in-process', '--world', world)
    assert f'{world} and panda_table have different action languages' in error and "--own-world ''" in error


def test_a_file_may_leave_to_flags_what_it_needs_with_them(tmp_path):
    path = yaml_file(tmp_path, env='gymnasium', actions=['+', '-'], group_size=3)
    assert load_train_config(path, {'env_id': 'x', 'worlds': 6}).scene == ('x', 'gymnasium')


def test_an_unknown_key_of_a_file_is_named_with_its_file(capsys, tmp_path):
    path = yaml_file(tmp_path, clipp=0.1)
    error = sentence(capsys, 'train', '--config', path)
    assert path in error and "'clipp'" in error


def test_a_value_out_of_range_is_named_with_its_file(capsys, tmp_path):
    path = yaml_file(tmp_path, gamma=1.5)
    error = sentence(capsys, 'train', '--config', path)
    assert path in error and 'gamma is 1.5' in error


IMPORTS = """
import signal, sys
from training.cli import main

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            {act}

sys.meta_path.insert(0, Finder())
sys.exit(main(['train', '--transport', 'in-process']))
"""


def with_import(name, act, folder):
    """What `vlm-agent train` says when something happens at an import."""
    code = IMPORTS.format(name=name, act=act)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60, check=False,
                          cwd=folder, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert list(folder.iterdir()) == []
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(('name', 'pip'), [('pybullet', 'pybullet'), ('pinocchio', 'pin')])
def test_a_package_that_is_not_installed_is_named_with_the_remedy(tmp_path, name, pip):
    status, said = with_import(name, 'raise ModuleNotFoundError(name, name=name)', tmp_path)
    assert status == 2 and said.count('\n') == 0 and f'pip install {pip}' in said


@pytest.mark.parametrize('act', ['signal.raise_signal(signal.SIGINT)', 'signal.raise_signal(signal.SIGTERM)',
                                 'try: signal.raise_signal(signal.SIGINT)\n            except BaseException: '
                                 'raise RuntimeError("compiled code")'])
def test_a_signal_while_packages_are_imported_is_no_error(tmp_path, act):
    assert with_import('torch', act, tmp_path) == (130, 'vlm-agent: stopped by a signal')


def test_a_resumed_run_starts_its_own_worlds(tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(as_mapping(TrainConfig(attach=('world_0',), worlds=1, gamma=0.5))))
    config, _ = configuration(parse_arguments(['train', '--resume', str(tmp_path), '--epochs', '3']))
    assert (config.attach, config.worlds, config.gamma, config.epochs) == ((), 1, 0.5, 3)


def test_arguments_for_ros_are_left_out():
    for_ros = ['--ros-args', '-r', '__node:=trainer']
    assert without_ros_arguments(['--seed', '1', *for_ros, '--', '--worlds', '2', *for_ros]) == [
        '--seed', '1', '--worlds', '2']


def test_a_derived_schedule_is_linear_in_the_decisions():
    config = TrainConfig(temperature=1.0, temperature_final=0.5, decisions=100)
    assert config.temperature_at(50) == pytest.approx(0.75)
    assert config.progress(1000) == 1.0


def test_attached_worlds_must_be_as_many_as_worlds():
    with pytest.raises(UserError, match='attach names 1'):
        TrainConfig(attach=('a',), worlds=2)
