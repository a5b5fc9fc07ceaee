"""What the simulated cell is compared with does what the comparison says it does."""

import itertools

import numpy as np
import pytest

from training.bench.panda_gym_world import PandaGymWorld
from training.bench.sized_world import sized_world
from training.bench.world import FilmedCell, stock_urdf


@pytest.fixture(scope='module')
def gym():
    world = PandaGymWorld(48)
    yield world
    world.close()


def test_the_script_carries_the_cube_of_panda_gym_to_its_goal(gym):
    for seed in range(3):
        observations = list(gym.motion(seed, 100))
        assert len(observations) == 101  # one of the start
        before, after = (np.linalg.norm(o['achieved_goal'] - o['desired_goal']) for o in observations[::100])
        assert after < 0.05 < before


def test_an_episode_of_panda_gym_lasts_as_long_as_the_cells_and_ends_each_turn_with_a_picture(gym, monkeypatch):
    steps = []
    monkeypatch.setattr(gym, 'motion', lambda seed, count: (steps.append(i) for i in range(count + 1)))
    assert len(gym.episode(0, 2, 4.0)) == 3  # with the one of the start
    assert len(steps) == 1 + 100


def test_the_cell_with_stock_meshes_moves_alike_and_only_looks_different(tmp_path):
    cells = [FilmedCell(sized_world(48, tmp_path), urdf) for urdf in ('', stock_urdf())]
    films = [list(itertools.islice(cell.film(3), 30)) for cell in cells]
    assert {picture.shape for film in films for picture in film} == {(48, 48, 3)}
    assert not np.array_equal(films[0][0], films[0][-1])
    assert not np.array_equal(films[0][-1], films[1][-1])
    played = [cell.episode(5) for cell in cells]
    assert played[0] == played[1]
    assert played[0][0] == 2 and 4.0 < played[0][1] < 10.0  # pick, place
    for cell in cells:
        cell.close()
