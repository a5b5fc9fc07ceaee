"""Splits hold out combinations and wordings; training draws none of them."""

import numpy as np
import pytest

from sim_worlds.splits import SPLITS, held_out, wordings
from sim_worlds.tasks import TASKS
from sim_worlds.world import CellWorld
from sim_worlds.world_file import load_world
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.types import EpisodeRequest

SEEDS = range(12)


@pytest.fixture(scope='module')
def world():
    world = CellWorld('panda_table')
    yield world
    world.close()


def draws(world, task, split):
    """Held-out pairs and instruction of each seed."""
    for seed in SEEDS:
        observation = world.reset(EpisodeRequest(seed, task, split=split))
        truth = world.truth()
        yield {pair for pair in truth.task.combinations(truth.goal, truth.items) if held_out(pair)}, observation.task


def is_one_of(text, templates):
    words = [template.split() for template in templates]
    return any(len(w) == len(text.split()) and all(a in (b, '{}') for a, b in zip(w, text.split())) for w in words)


@pytest.mark.parametrize(('task', 'split'), [
    (task, split) for task in TASKS for split in ('', *SPLITS) if split or TASKS[task].default_split])
def test_a_split_draws_what_its_name_says_and_training_nothing_held_out(world, task, split):
    kind = TASKS[task]
    for pairs, text in draws(world, task, split):
        assert bool(pairs) is (split == 'unseen-combination')
        assert is_one_of(text, wordings(kind(), split))
        assert is_one_of(text, kind.held_out_instructions) is (split == 'unseen-wording')


@pytest.mark.parametrize('task', TASKS)
def test_wordings_of_a_task_are_distinct_and_fit_the_prompt(task):
    kind = TASKS[task]
    texts = kind.instructions + kind.held_out_instructions
    assert len(set(texts)) == len(texts) and len(kind.held_out_instructions) >= 2
    assert max(len(text.format('purple', 'purple')) for text in texts) <= 120


def test_every_kind_of_combination_has_some_that_are_held_out_and_more_that_are_not():
    colours = list(load_world('panda_table').objects.palette)
    ordered = [held_out((a, b)) for a in colours for b in colours]
    unordered = [held_out((a, b)) for a in colours for b in colours if a < b]
    defects = [held_out((a, b)) for a in colours for b in ('missing corner', 'wrong colour', 'scratch')]
    for pairs in (ordered, unordered, defects):
        assert 0.1 <= np.mean(pairs) <= 0.3


def test_a_world_without_held_out_combinations_is_refused_by_name(tmp_path):
    path = tmp_path / 'two.yaml'
    path.write_text('name: two\nobjects:\n  cubes: 2\n  pads: 2\n  palette: {red: [1, 0, 0], green: [0, 1, 0]}\n')
    world = CellWorld(str(path))
    with pytest.raises(UserError, match=r'two\.yaml.*unseen-combination'):
        world.reset(EpisodeRequest(0, 'sort', split='unseen-combination'))
    world.close()


def test_an_unknown_split_is_refused_by_name(world):
    with pytest.raises(UserError, match="no split named 'hidden'"):
        world.reset(EpisodeRequest(0, 'sort', split='hidden'))
