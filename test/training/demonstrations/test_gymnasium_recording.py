"""Recording any Gymnasium environment that has an expert: what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pyarrow.parquet as pq
import pytest

import sim_worlds.games  # noqa: F401 - registers them
from training.cli import main
from training.demonstrations.dataset import DemonstrationDataset
from training.seeds import DEMONSTRATION_START
from training.sft.sft_trainer import SftConfig, SftTrainer, Stage
from training.sft.tiny_vlm import TinyVlmConfig
from vlm_agent_ros.actions import DiscreteLanguage
from vlm_agent_ros.checkpoint import load_policy
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.output import format_output
from vlm_agent_ros.policy.prompt import PromptTemplate

ACTIONS = ('left', 'right')


class Door(gymnasium.Env):
    """Two turns; the bright half is the open door, and in the second turn there is no way to the left."""

    observation_space = gymnasium.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn = 0
        return np.full((16, 16, 3), self.np_random.integers(256), np.uint8), {}

    def step(self, action):
        self.turn += 1
        image = np.full((16, 16, 3), self.turn, np.uint8)
        return image, float(action), self.turn == 2, False, {'actions': ['right'], 'prompt': f'door {self.turn}'}


class Guide(gymnasium.Wrapper):
    """An expert around an environment that has none."""

    def __init__(self, env, says=('it is open', 'right')):
        super().__init__(env)
        self.says = says

    def demonstrate(self):
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


def registered(**arguments) -> str:
    env_id = f'test/Door{len(gymnasium.registry)}-v0'
    gymnasium.register(env_id, entry_point=lambda: Guide(Door(), **arguments))
    return env_id


def record(env_id: str, out: Path, *options: str, actions: tuple[str, ...] = ACTIONS) -> int:
    return main(['record', '--env', 'gymnasium', '--env-id', env_id, '--actions', *actions, '--episodes', '3',
                 '--workers', '1', '--out', str(out), *options])


@pytest.mark.parametrize('name', ['NumberLine', 'TwoCards'])
def test_the_expert_of_a_game_shows_every_turn_as_the_policy_reads_and_can_write_it(tmp_path, vlm_folder, name):
    env_id = f'vlm_agent_ros/{name}-v0'
    env = gymnasium.make(env_id).unwrapped
    assert record(env_id, tmp_path / 'd', '--prompt', 'so far: {task}', actions=env.actions) == 0
    rows = pq.read_table(next((tmp_path / 'd' / 'data').glob('*.parquet'))).to_pylist()
    images = DemonstrationDataset.load([tmp_path / 'd']).images
    policy = load_policy(str(vlm_folder), language=DiscreteLanguage(env.actions))
    for number in range(3):
        seen = env.reset(seed=DEMONSTRATION_START + number)[0]
        turns = [(row, image) for row, image in zip(rows, images) if row['episode'] == number]
        for turn, (row, image) in enumerate(turns):
            assert np.array_equal(image, seen if name == 'NumberLine' else seen['image'])
            text = '' if name == 'NumberLine' else seen['text']
            assert (row['prompt'], row['turn'], row['seed']) == (f'so far: {text}'.strip(), turn + 1,
                                                                DEMONSTRATION_START + number)
            assert policy.written(format_output(row['thought'], row['action'])).legal
            seen, reward, terminated, _, _ = env.step(env.actions.index(row['action']))
            assert row['outcome']['reward'] == reward and row['outcome']['terminated'] == terminated
        assert terminated and turns[0][0]['episode_outcome'] == {'success': True, 'return': 1.0, 'turns': len(turns)}
    assert f'| {env_id} | unknown | {len(rows)} | 3 | 0 | 0 |' in (tmp_path / 'd' / 'README.md').read_text()


def test_a_wrapper_can_bring_the_expert(tmp_path):
    assert record(registered(), tmp_path) == 0
    dataset = DemonstrationDataset.load([tmp_path])
    assert list(dataset.thoughts) == ['it is open'] * 6 and list(dataset.actions) == ['right'] * 6
    assert [prompt.splitlines()[:2] for prompt in dataset.prompts[:2]] == [
        ['Possible actions: left | right', dataset.prompts[0].splitlines()[1]], ['door 1', 'Possible actions: right']]


@pytest.mark.parametrize(('thought', 'told'), [('it is open', 'it is open'), ('', 'right')])
def test_a_prompt_tells_what_the_expert_said_of_the_turn_before_as_in_training(tmp_path, thought, told):
    assert record(registered(says=(thought, 'right')), tmp_path, '--prompt', '{task} before: {previous}') == 0
    assert list(DemonstrationDataset.load([tmp_path]).prompts) == ['before: nothing', f'door 1 before: {told}'] * 3


def test_without_thoughts_a_prompt_of_its_own_tells_the_action_of_the_turn_before(tmp_path):
    assert record(registered(says=('it is open', 'right')), tmp_path, '--prompt', '{task} before: {previous}') == 0
    dataset = DemonstrationDataset.load([tmp_path]).without_thoughts(PromptTemplate('no memory, as of a models file'))
    assert list(dataset.prompts) == ['before: nothing', 'door 1 before: right'] * 3


def test_what_is_tuned_on_a_recording_is_prompted_as_the_recording_says(tmp_path, monkeypatch):
    env_id = registered()
    assert record(env_id, tmp_path / 'd', '--prompt', 'which door? {task}') == 0
    sizes = TinyVlmConfig(image_size=32, patch_size=16, vision_width=16, vision_layers=1, text_width=16, text_layers=1,
                          heads=2)
    none = Stage(0)
    config = SftConfig(data=(str(tmp_path / 'd'),), architecture=sizes, vision=none, text=Stage(1, 2, 1e-2, 1),
                       joint=none, grounding_weight=0.0)
    trainer = SftTrainer(config, tmp_path / 'model', 'cpu')
    trainer.train()
    trainer.finish()
    prompts = []

    def load(name, *, prompt=None, **settings):
        prompts.append(load_policy(name, prompt=prompt, **settings).prompt.template)
        raise UserError('seen')

    monkeypatch.setattr('training.evaluation.evaluator.load_policy', load)
    monkeypatch.setattr('vlm_agent_ros.checkpoint.load_policy', load)
    environment = ['--env', 'gymnasium', '--env-id', env_id, '--actions', *ACTIONS]
    model = str(tmp_path / 'model')
    for command in (['evaluate', '--checkpoint', model], ['train', '--model', model, '--runs-dir', str(tmp_path)]):
        assert main([*command, *environment]) == 2
        assert main([*command, *environment, '--prompt', 'another one {task}']) == 2
    assert prompts == ['which door? {task}', 'another one {task}'] * 2


def test_a_recording_under_another_prompt_is_refused(tmp_path, capsys):
    env_id = registered()
    assert record(env_id, tmp_path, '--prompt', 'where?') == 0
    assert record(env_id, tmp_path, '--prompt', 'where to?') == 2
    assert 'holds a recording with another prompt' in capsys.readouterr().err


gymnasium.register('test/DoorAlone-v0', entry_point=Door)


@pytest.mark.parametrize(('says', 'options', 'said'), [
    (None, [], 'has no expert to learn from: give it, or a wrapper around it, a method demonstrate()'),
    (('', 'up'), [], "demonstrates the action 'up', but admits left, right"),
    ('right', [], 'in demonstrate(), which has to return a thought and an action'),
    (('a "quote"', 'right'), [], 'holds a quote'),
    (RuntimeError('lost'), [], 'raised RuntimeError: lost'),
    (('', 'right'), ['--mistakes', '0.3', '--tasks', 'pick'], 'env is gymnasium, which knows no tasks, mistakes'),
    (('', 'right'), ['--env', 'cell'], 'env is cell, which takes no env_id'),
    (('', 'right'), ['--episodes', '0'], 'there is nothing to record'),
])
def test_what_cannot_be_recorded_is_refused_in_one_sentence_before_anything_is_written(tmp_path, capsys, says, options,
                                                                                     said):
    env_id = registered(says=says) if says else 'test/DoorAlone-v0'
    assert record(env_id, tmp_path / 'd', *options) == 2
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1 and not (tmp_path / 'd').exists()


def test_an_expert_that_asks_for_what_a_turn_does_not_admit_is_named_with_its_seed(tmp_path, capsys):
    assert record(registered(says=('', 'left')), tmp_path) == 2
    error = capsys.readouterr().err
    assert f"demonstrates the action 'left', but admits right (seed {DEMONSTRATION_START}, turn 1)" in error
    assert not (tmp_path / 'data').exists()


def test_of_scenes_the_first_decision_alone_is_recorded_and_nothing_is_carried_out(tmp_path):
    assert record(registered(), tmp_path / 'd', '--scenes', '4') == 0
    rows = [row for file in sorted((tmp_path / 'd' / 'data').iterdir()) for row in pq.read_table(file).to_pylist()]
    assert [(row['episode'], row['turn']) for row in rows] == [
        *((episode, 1) for episode in range(4)), *((episode, turn) for episode in range(4, 7) for turn in (1, 2))]
    assert all((row['executed'] is None) == (row['outcome'] is None) == (row['episode'] < 4) for row in rows)
    assert '| 10 | 3 | 0 | 4 |' in (tmp_path / 'd' / 'README.md').read_text()
