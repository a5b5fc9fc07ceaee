"""Files of a check: what is not changed in them is as it was."""

from sim_worlds.world import CellWorld
from training.cell_check.cell_files import write_cell
from vlm_agent_ros.types import EpisodeRequest


def test_a_world_that_was_written_has_the_episodes_of_the_one_that_it_was_made_from(tmp_path):
    worlds = [CellWorld(world) for world in ('shifted', write_cell(tmp_path, 'shifted', {}).world)]
    try:
        for seed in range(4):
            original, copy = (world.reset(EpisodeRequest(seed, 'place')) for world in worlds)
            assert copy.task == original.task
            assert (copy.image == original.image).all()
    finally:
        for world in worlds:
            world.close()
