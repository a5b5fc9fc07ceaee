"""Any Gymnasium environment with images and action texts: what the policy sees, what is done, what is refused."""

import json
import re
import shlex
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml
from gymnasium import spaces

import sim_worlds.games  # noqa: F401 - registers them
from training.cli import main
from training.config import EnvironmentConfig, TrainConfig, as_mapping
from training.rl.rollout import TrainingSchedule, collect
from training.worlds.episodes import Player
from training.worlds.gymnasium_environment import GymnasiumEnvironment
from vlm_agent_ros.checkpoint import load_policy
from vlm_agent_ros.config import parse
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.policy import Decision
from vlm_agent_ros.types import EpisodeRequest

ACTIONS = ('go', 'go left', 'wait')


class Rooms(gymnasium.Env):
    """Three turns; each admits other actions and is told otherwise, and every picture is drawn into the same memory."""

    actions = ACTIONS
    admitted = ((0, 1, 2), (1, 2), (0,))

    def __init__(self, image=None, action=None, tells='actions', success=None):
        self.observation_space = image or spaces.Dict({
            'image': spaces.Box(0, 255, (24, 40, 3), np.uint8), 'text': spaces.Text(40), 'more': spaces.Discrete(2)})
        self.action_space = action or spaces.Discrete(3, start=5)
        self.tells, self.success, self.picture = tells, success, np.zeros((24, 40, 3), np.uint8)
        self.done = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn, self.done = 0, []
        self.colour = int(self.np_random.integers(1, 200))
        return self.seen(), self.told()

    def step(self, action):
        self.turn += 1
        self.done.append(action - 5)
        info = self.told() | ({} if self.success is None else {'is_success': self.success})
        return self.seen(), float(action == 6), self.turn == 3, False, info

    def seen(self):
        self.picture[:] = self.colour + self.turn
        return {'image': self.picture, 'text': f'room {self.turn}', 'more': 0}

    def told(self):
        if self.turn == 3:
            return {'action_mask': np.zeros(3, np.int8)}
        if self.tells == 'actions':
            return {'actions': [ACTIONS[i] for i in self.admitted[self.turn]], 'prompt': f'you are in room {self.turn}'}
        return {'action_mask': np.isin(np.arange(3), self.admitted[self.turn]).astype(np.int8)}


gymnasium.register('test/Rooms-v0', entry_point=Rooms)
gymnasium.register('test/MaskedRooms-v0', entry_point=Rooms, kwargs={'tells': 'mask'})


def environment(**changes):
    config = {'env': 'gymnasium', 'env_id': 'test/Rooms-v0', 'actions': list(ACTIONS), **changes}
    return GymnasiumEnvironment(parse(EnvironmentConfig, config, 'test'))


def registered(**arguments):
    """Id of the rooms with other spaces or other habits."""
    env_id = f'test/Rooms{len(gymnasium.registry)}-v0'
    gymnasium.register(env_id, entry_point=Rooms, kwargs=arguments)
    return env_id


def decision(action, text=None, legal=True):
    none = np.zeros(0)
    return Decision(text or action, '', action, legal, none, none, none, 0.0)


def play(env, actions=(0, 1, 0)):
    """Observations and outcomes of one episode."""
    pool = env.open(1)
    pool.reset({0: EpisodeRequest(3, 'x')})
    answers = [pool.collect([0])[0]]
    for action in actions:
        pool.execute({0: action})
        answers.append(pool.collect([0])[0])
    pool.close()
    return answers


@pytest.mark.parametrize('tells', ['actions', 'mask'])
def test_prompt_and_admissible_actions_are_those_of_the_step(tells):
    env = environment(env_id=registered(tells=tells), prompt='{task}? {actions}')
    commander = env.commanders(env.prompt, 'auto')('gymnasium')
    inputs = [commander.observe(observation) for observation, _ in play(env)]
    words = 'you are in room' if tells == 'actions' else 'room'
    assert [i.prompt for i in inputs[:3]] == [f'{words} 0? go | go left | wait', f'{words} 1? go left | wait',
                                              f'{words} 2? go']
    assert [i.language.actions if i.language else None for i in inputs] == [None, ('go left', 'wait'), ('go',), None]
    assert [int(i.image[0, 0, 0]) - int(inputs[0].image[0, 0, 0]) for i in inputs] == [0, 1, 2, 3]
    assert {i.image.shape for i in inputs} == {(24, 40, 3)}


def test_a_text_of_the_step_reaches_a_prompt_without_a_place_for_it():
    env = environment(prompt='find the exit')
    commander = env.commanders(env.prompt, 'auto')('gymnasium')
    assert commander.observe(play(env)[1][0]).prompt == 'find the exit\nyou are in room 1'


def test_the_action_that_was_written_is_carried_out_though_fewer_are_admissible():
    env = environment()
    commander = env.commanders(env.prompt, 'auto')('gymnasium')
    moves = [commander.command(decision('go left'), observation, 0).move for observation, _ in play(env)[:3]]
    answers = play(env, moves)
    assert [outcome.reward for _, outcome in answers[1:]] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(('said', 'actions', 'success'), [
    (None, (1, 1, 0), True), (None, (0, 2, 0), False), (True, (0, 2, 0), True), (False, (1, 1, 0), False)])
def test_success_is_what_the_environment_says_or_else_a_positive_return_at_the_end(said, actions, success):
    outcomes = [outcome for _, outcome in play(environment(env_id=registered(success=said)), actions)[1:]]
    assert [o.success for o in outcomes] == [bool(said), bool(said), success]
    assert [(o.terminated, o.truncated, o.turn, o.seed) for o in outcomes] == [
        (False, False, 1, 3), (False, False, 2, 3), (True, False, 3, 3)]


def test_an_illegal_output_becomes_an_admissible_action_that_depends_on_the_seed_alone():
    env = environment()
    (first, _), (second, _), (third, _), _ = play(env)
    commander = env.commanders(env.prompt, 'auto')('gymnasium')
    nonsense = decision('', 'xyz', legal=False)
    drawn = [[commander.command(nonsense, seen, seed).move for seed in range(50)] for seen in (first, second, third)]
    assert [set(moves) for moves in drawn] == [{0, 1, 2}, {1, 2}, {0}]
    assert drawn[0] == [commander.command(nonsense, first, seed).move for seed in range(50)]
    assert commander.command(nonsense, first, 0).rejection == 'illegal'


def test_the_first_match_is_the_longest_admissible_text_at_its_place():
    env = environment()
    (first, _), (second, _), *_ = play(env)
    commander = env.commanders(env.prompt, 'first_match')('gymnasium')
    assert commander.command(decision('', 'I go left and wait', legal=False), first, 0).move == 1
    assert commander.command(decision('', 'go, then wait', legal=False), second, 0).move == 2
    assert commander.command(decision('', 'nothing', legal=False), second, 0).rejection == 'illegal'
    # What was written as the action comes before what was thought; and a word is not found within another.
    written = decision('wait', '{"thoughts": "go left", "action": "wait", }', legal=False)
    assert commander.command(written, first, 0).move == 2
    assert commander.command(decision('', 'I am going to wait', legal=False), first, 0).move == 2


def test_the_value_of_a_state_in_which_an_episode_is_cut_off_knows_what_it_admits(monkeypatch):
    monkeypatch.setattr(Rooms, 'step', lambda room, action: (room.seen(), 0.0, False, True, {'actions': ['wait']}))
    env = environment(prompt='{task}? {actions}')
    seen = play(env, (0,))[1][0]
    assert env.commanders(env.prompt, 'auto')('gymnasium').observe(seen).prompt == 'room 0? wait'
    monkeypatch.setattr(Rooms, 'step', lambda room, action: (room.seen(), 0.0, False, True, {'actions': []}))
    assert play(environment(), (0,))[1][0].admissible is None


def test_seeds_of_training_are_those_that_an_environment_is_tried_with(monkeypatch):
    reset = Rooms.reset

    def of_32_bits(room, seed=None, options=None):
        assert seed < 2**31, 'seed too large'
        return reset(room, seed=seed)
    monkeypatch.setattr(Rooms, 'reset', of_32_bits)
    with pytest.raises(UserError, match='seed too large'):
        environment()


BOX = {'low': 0, 'high': 255, 'dtype': np.uint8}


@pytest.mark.parametrize(('arguments', 'said'), [
    ({'image': spaces.Box(shape=(24, 40), **BOX)}, 'grayscale'),
    ({'image': spaces.Box(shape=(24, 40, 1), **BOX)}, 'grayscale'),
    ({'image': spaces.Box(shape=(3, 24, 40), **BOX)}, 'channels come first'),
    ({'image': spaces.Box(0.0, 1.0, (24, 40, 3))}, 'dtype uint8'),
    ({'image': spaces.Discrete(4)}, 'an RGB image is needed'),
    ({'image': spaces.Dict({'pixels': spaces.Box(shape=(24, 40, 3), **BOX)})}, 'pixels'),
    ({'image': spaces.Dict({'image': spaces.Box(shape=(24, 40, 3), **BOX), 'text': spaces.Discrete(2)})}, '"text"'),
    ({'image': spaces.Dict({'image': spaces.Box(shape=(9, 9, 3), **BOX)})}, r'\(24, 40, 3\) uint8, but its space'),
    ({'action': spaces.Box(0, 1, (3,))}, 'a Discrete space is needed'),
    ({'action': spaces.Discrete(4)}, 'has 4 actions, but actions names 3'),
    ({'unknown': 1}, 'cannot be made'),
])
def test_an_environment_that_does_not_fit_is_refused_with_what_was_found(arguments, said):
    with pytest.raises(UserError, match=said) as caught:
        environment(env_id=registered(**arguments))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('actions', [['go', 'go', 'wait'], ['go', '', 'wait'], ['go', 'a"b', 'wait'],
                                     ['go', 'a\nb', 'wait'], ['go', ' go', 'wait'], ['go', 'a\\b', 'wait'],
                                     ['go', 'ｇｏ', 'wait'], ['fit', 'ﬁt', 'wait']])
def test_action_texts_that_cannot_be_told_apart_are_refused(actions):
    with pytest.raises(UserError, match='actions does not do'):
        environment(actions=actions)


@pytest.mark.parametrize(('answer', 'said'), [
    (lambda seen: sys.exit(3), r'raised SystemExit: 3.* in step\(\)'),
    (lambda seen: (seen, 0.0, True, {}), r'returns no five values from step\(\)'),
    (lambda seen: (seen, None, True, False, {}), 'gave the reward None, which is no number'),
    (lambda seen: (seen, float('nan'), True, False, {}), 'gave the reward nan'),
    (lambda seen: (seen, -1e39, True, False, {}), r'gave the reward -1e\+39, which is too large to be learned from'),
    (lambda seen: (seen, 0.0, True, False, None), 'an info that is no dict: None'),
    (lambda seen: (seen, 0.0, np.ones(2), False, {}), 'says terminated by what is neither'),
    (lambda seen: (seen, 0.0, True, False, {'success': np.ones(2)}), 'says success by what is neither'),
    (lambda seen: (seen, 0.0, True, False, {'success': 'False'}), "says success by what is neither .*'False'"),
    (lambda seen: (seen, 0.0, True, False, {'is_success': float('nan')}), 'says success by what is neither .*nan'),
    (lambda seen: (seen, 0.0, False, False, {'actions': 'go'}), "admits 'go', which is no list"),
    (lambda seen: (seen, 0.0, False, False, {'actions': 3}), 'admits 3, which is no list'),
    (lambda seen: (seen, 0.0, False, False, {'actions': [np.ones(2)]}), 'which is not among actions'),
    (lambda seen: (seen, 0.0, False, False, {'action_mask': [[1], [1, 0], [1]]}), 'which is no list of flags'),
    (lambda seen: (seen, 0.0, False, False, {'action_mask': [1.0, float('nan'), 0.0]}), 'which is not of 0 and 1'),
])
def test_a_first_step_that_does_not_fit_is_told_before_a_model_is_loaded(monkeypatch, answer, said):
    monkeypatch.setattr(Rooms, 'step', lambda room, action: answer(room.seen()))
    with pytest.raises(UserError, match=said) as caught:
        environment()
    assert '\n' not in str(caught.value) and 'turn 1' in str(caught.value)


def test_a_reset_without_an_info_is_told(monkeypatch):
    monkeypatch.setattr(Rooms, 'reset', lambda room, seed=None, options=None: (room.picture, None))
    with pytest.raises(UserError, match='an info that is no dict: None'):
        environment()


def test_an_environment_that_breaks_its_word_while_it_runs_is_named_with_seed_and_turn(monkeypatch):
    env = environment()
    monkeypatch.setattr(Rooms, 'admitted', ((0, 1, 2), (), (0,)))
    with pytest.raises(UserError, match=r'test/Rooms-v0 admits no action .*seed 3, turn 1'):
        play(env)
    monkeypatch.setattr(Rooms, 'told', lambda room: {'actions': ['fly']})
    with pytest.raises(UserError, match="admits 'fly'"):
        play(env)
    monkeypatch.setattr(Rooms, 'told', lambda room: 1 / 0)
    with pytest.raises(UserError, match=r'ZeroDivisionError.*test_gymnasium\.py:\d+'):
        play(env)


RUN = ('--env', 'gymnasium', '--env-id', 'test/Rooms-v0')
LIST = ('--actions', *ACTIONS)


@pytest.mark.parametrize(('arguments', 'said'), [
    (['train', *RUN], 'actions is missing'),
    (['train', '--env', 'gymnasium', *LIST], 'env_id is missing'),
    (['train', '--env-id', 'x'], 'env is cell, which takes no env_id'),
    (['train', *LIST], 'env is cell, which takes no actions'),
    (['train', *RUN, *LIST, '--task', 'place'], 'knows no task'),
    (['train', *RUN, *LIST, '--transport', 'in-process'], 'knows no transport'),
    (['train', *RUN, *LIST, '--config', 'ppo'], 'knows no task, world, own_world, transport'),
    (['train', *RUN, *LIST, '--illegal-rule', 'lost_turn'], 'no turn without an action'),
    (['train', *RUN, *LIST, '--guard-scope', 'every'], 'set guard_coef to 0, or guard_scope to earned'),
    (['train', *RUN, '--actions', 'go', 'wait', 'go'], "two actions have the text 'go', word one of them otherwise"),
    (['train', '--illegal-rule', 'random'], 'no list of actions'),
    (['train', '--env', 'gymnasium', '--env-id', 'test/Nothing-v0', *LIST], 'test/Nothing-v0'),
    (['train', *RUN, *LIST, '--import', 'no_such_module'], 'no_such_module'),
    (['train', *RUN, '--actions', 'go', 'wait'], 'has 3 actions, but actions names 2'),
    (['evaluate', *RUN], 'actions is missing'),
    (['evaluate', *RUN, *LIST, '--illegal-rule', 'lost_turn'], 'no turn without an action'),
    (['compare', 'a', 'b', '--illegal-rule', 'random'], 'no list of actions'),
    (['evaluate', *RUN, *LIST, '--world', 'shifted'], 'knows no world'),
    (['evaluate', *RUN, '--actions', 'go', 'wait'], 'has 3 actions, but actions names 2'),
])
def test_bad_options_end_in_one_sentence_before_anything_is_written(capsys, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1 and list(tmp_path.iterdir()) == []


def test_the_configuration_of_a_run_holds_nothing_of_the_cell_and_comes_back():
    config = TrainConfig(env='gymnasium', env_id='x', import_='y', actions=('+', '-'))
    mapping = json.loads(json.dumps(as_mapping(config)))
    assert mapping['import'] == 'y' and not {'task', 'world', 'transport'} & mapping.keys()
    assert parse(TrainConfig, mapping, 'json') == config


@pytest.fixture(scope='module')
def files(vlm_folder, tmp_path_factory):
    """A models file and a training file of a very small, unconstrained run in the rooms."""
    folder = tmp_path_factory.mktemp('rooms')
    model, config = folder / 'model.yaml', folder / 'training.yaml'
    model.write_text(yaml.safe_dump({
        'base': str(vlm_folder), 'lora': {'rank': 4}, 'value_width': 8,
        'decoding': {'max_thought_chars': 5, 'max_new_tokens': 30}}))
    config.write_text(yaml.safe_dump({
        'env': 'gymnasium', 'env_id': 'test/MaskedRooms-v0', 'actions': list(ACTIONS), 'prompt': 'go: {task}',
        'model': str(model), 'worlds': 2, 'decisions_per_update': 6, 'decisions': 12, 'max_wall_minutes': 0,
        'epochs': 1, 'learning_rate': 0.01, 'lr_schedule': 'constant', 'value_warmup_updates': 0, 'eval_episodes': 2,
        'constrained': False, 'illegal_rule': 'first_match', 'runs_dir': str(folder)}))
    return folder


@pytest.fixture(scope='module')
def finished(files):
    assert main(['train', '--config', str(files / 'training.yaml'), '--run-name', 'whole']) == 0
    return files / 'whole'


def rows(folder):
    """metrics.jsonl without what depends on the clock."""
    updates = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith(('_s', 'per_second', 'mib'))} for row in updates]


def test_a_run_leaves_what_a_run_in_the_cell_leaves(finished):
    summary = json.loads((finished / 'summary.json').read_text())
    assert (summary['task'], summary['transport']) == ('test/MaskedRooms-v0', 'in_process')
    assert summary['own_cell'] is None and summary['before']['n'] == summary['after']['n'] == 2
    assert (finished / 'report.html').read_text().count('class="film"') == 2
    updates = rows(finished)
    assert len(updates) >= 2 and all(row['logprob_error'] < 1e-4 and row['turns'] == 3 for row in updates)
    assert any(row['illegal'] > 0 for row in updates)  # so that the drawn actions are part of what must come back


def test_a_run_that_goes_on_from_a_checkpoint_draws_the_same_random_actions(finished, files):
    config = ['train', '--config', str(files / 'training.yaml'), '--run-name', 'again', '--decisions', '6']
    assert main(config) == 0
    checkpoint = str(files / 'again' / 'checkpoints' / 'latest')
    assert main(['train', '--resume', checkpoint, '--decisions', '12']) == 0
    assert rows(files / 'again') == rows(finished)


@pytest.mark.parametrize(('changes', 'said'), [
    (['--prompt', 'another'], 'prompt template differs'),
    (['--actions', 'go', 'go right', 'wait'], 'trained for the actions "go | go left | wait"'),
    (['--model', 'tiny_vlm'], 'restore them'),
])
def test_a_resume_under_another_prompt_action_list_or_model_is_refused(finished, capsys, changes, said):
    before = rows(finished)
    assert main(['train', '--resume', str(finished / 'checkpoints' / 'latest'), *changes]) == 2
    assert said in capsys.readouterr().err
    assert rows(finished) == before


def test_a_checkpoint_is_evaluated_as_it_was_trained_and_refused_under_another_prompt(finished, capsys, tmp_path):
    command = ['evaluate', *RUN, *LIST, '--checkpoint', str(finished / 'checkpoints' / 'latest'), '--episodes', '2']
    assert main([*command, '--out', str(tmp_path / 'result.json')]) == 0
    written = json.loads((tmp_path / 'result.json').read_text())
    assert written['constrained'] is False
    result, = written['suites']
    assert result['n'] == 2 and result['turns'] == 3 and result['task'] == 'test/Rooms-v0'
    assert main([*command, '--prompt', 'another']) == 2
    assert 'prompt template differs' in capsys.readouterr().err


def test_an_evaluation_follows_the_rule_for_illegal_outputs_that_is_asked_for(finished, tmp_path, monkeypatch):
    own, rules = GymnasiumEnvironment.commanders, []
    monkeypatch.setattr(GymnasiumEnvironment, 'commanders',
                        lambda env, prompt, rule: rules.append(rule) or own(env, prompt, rule))
    command = ['evaluate', '--env', 'gymnasium', '--env-id', 'test/MaskedRooms-v0', *LIST, '--checkpoint',
               str(finished / 'checkpoints' / 'latest'), '--episodes', '2', '--unconstrained', '--out']
    assert main([*command, str(tmp_path / 'r.json'), '--illegal-rule', 'first_match', '--worlds', '2']) == 0
    result = json.loads((tmp_path / 'r.json').read_text())
    after = json.loads((finished / 'summary.json').read_text())['after']
    assert rules == ['first_match'] == [result['illegal_rule']]
    assert result['suites'][0]['return'] == after['return']


@pytest.mark.parametrize('fault', ['step', 'reset'])
def test_an_environment_that_fails_in_training_costs_the_update_that_it_fails_in(finished, files, monkeypatch, capsys,
                                                                               fault):
    monkeypatch.setattr(Rooms, 'calls', 0, raising=False)
    whole = getattr(Rooms, fault)

    def failing(room, *arguments, **options):
        Rooms.calls += 1
        if Rooms.calls == {'step': 1 + 6 + 6 + 2, 'reset': 1 + 2 + 2 + 2}[fault]:  # in the second update
            raise RuntimeError('the motor is hot')
        return whole(room, *arguments, **options)

    monkeypatch.setattr(Rooms, fault, failing)
    assert main(['train', '--config', str(files / 'training.yaml'), '--run-name', f'failed_{fault}']) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert 'the motor is hot' in message and 'continue after update 1' in message
    monkeypatch.setattr(Rooms, fault, whole)
    assert main(['train', '--resume', message.split('--resume ')[1].rstrip('`')]) == 0
    assert rows(files / f'failed_{fault}') == rows(finished)


def test_an_environment_that_fails_in_close_costs_neither_a_result_nor_the_reason_of_another_failure(
        finished, tmp_path, monkeypatch, capsys):
    command = ['evaluate', '--env', 'gymnasium', '--env-id', 'test/MaskedRooms-v0', *LIST, '--checkpoint',
               str(finished / 'checkpoints' / 'latest'), '--episodes', '2', '--worlds', '2', '--out']
    closed = []

    def failing(room):
        closed.append(room)
        raise OSError('the display is gone')

    monkeypatch.setattr(Rooms, 'close', failing)
    assert main([*command, str(tmp_path / 'result.json')]) == 0
    assert json.loads((tmp_path / 'result.json').read_text())['suites'][0]['n'] == 2
    assert 'warning: environment test/MaskedRooms-v0 raised OSError: the display is gone' in capsys.readouterr().err
    assert len(closed) == 1 + 2  # that of the trial, and all
    monkeypatch.setattr(Rooms, 'reset', lambda room, **options: 1 / 0)
    assert main([*command, str(tmp_path / 'none.json')]) == 2
    assert 'ZeroDivisionError' in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize('action', ['<image>', '<eos>', 'go <pad>'])
def test_an_action_that_the_tokenizer_takes_for_a_special_token_is_refused_before_a_run_begins(files, tmp_path, capsys,
                                                                                            action):
    command = ['train', '--config', str(files / 'training.yaml'), '--runs-dir', str(tmp_path)]
    assert main([*command, '--actions', 'go', action, 'wait']) == 2
    error = capsys.readouterr().err
    assert f'hold {action.removeprefix("go ")!r}' in error and error.count('\n') == 1 and not list(tmp_path.iterdir())


def test_an_action_that_no_output_has_room_for_is_refused_before_a_run_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    actions = ['--actions', 'go', 'turn the wheel ' * 20 + 'left', 'wait']
    assert main(['train', *RUN[:3], 'test/MaskedRooms-v0', *actions]) == 2
    error = capsys.readouterr().err
    assert re.search(r"'turn the wheel .*' has \d+ tokens, but decoding\.max_new_tokens .* allows 32", error)
    assert error.count('\n') == 1 and not list(tmp_path.iterdir())


def test_a_module_of_the_current_folder_registers_its_environment(tmp_path, monkeypatch):
    (tmp_path / 'my_rooms.py').write_text(
        "import gymnasium\nfrom test.training.worlds.test_gymnasium import Rooms\n"
        "gymnasium.register('test/Mine-v0', entry_point=Rooms)\n")
    monkeypatch.chdir(tmp_path)
    assert environment(env_id='test/Mine-v0', **{'import': 'my_rooms'}).language.actions == ACTIONS


def test_the_policy_writes_only_what_each_step_admits(vlm_folder):
    env = environment()
    policy = load_policy(str(vlm_folder), language=env.language, prompt=env.prompt)
    config = TrainConfig(env='gymnasium', env_id='test/Rooms-v0', actions=ACTIONS, worlds=3, decisions_per_update=9)
    episodes = []
    player = Player(policy, env.open(3), env.commanders(policy.prompt, 'auto'))
    rollout = collect(player, TrainingSchedule(config), config, 3.0, episodes.append)
    for episode in episodes:
        assert [turn.command.move in admitted for turn, admitted in zip(episode.turns, Rooms.admitted)] == [True] * 3
    assert rollout.metrics['illegal'] == 0.0


def test_the_example_of_the_readme_trains(tmp_path, monkeypatch):
    section = (Path(__file__).parents[3] / 'README.md').read_text(encoding='utf-8').partition('## Your own game')[2]
    code, commands = re.findall(r'```(?:python)?\n(.*?)```', section, re.DOTALL)[:2]
    (tmp_path / 'my_game.py').write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    _, *arguments = shlex.split(commands.splitlines()[0])
    assert main([*arguments, '--decisions', '64', '--decisions-per-update', '64', '--eval-episodes', '4',
                 '--run-name', 'x']) == 0
    summary = json.loads(Path('runs/x/summary.json').read_text())
    assert summary['decisions'] >= 64 and summary['after']['n'] == 4 and summary['after']['illegal'] == 0.0
