"""The section ``topics`` of a cell file: names of a real cell, and what its driver says when it has stopped."""

from pathlib import Path

import pytest
import yaml

from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.config import find_config, parse
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.topics import Topics


def cell_file(folder, topics):
    content = yaml.safe_load(Path(load_cell('panda_table').path).read_text())
    path = folder / 'cell.yaml'
    path.write_text(yaml.safe_dump({**content, 'topics': topics}))
    return str(path)


def test_only_names_that_differ_are_remapped_and_compressed_images_follow_the_raw_ones(tmp_path):
    topics = load_cell(cell_file(tmp_path, {
        'image': 'cam/color/image_raw', 'arm_command': '/scaled_joint_trajectory_controller/joint_trajectory'})).topics
    assert interface.remappings(topics) == [
        (interface.IMAGE, 'cam/color/image_raw'), (interface.COMPRESSED_IMAGE, 'cam/color/image_raw/compressed'),
        (interface.ARM_COMMAND, '/scaled_joint_trajectory_controller/joint_trajectory')]
    assert interface.remappings(load_cell('panda_table').topics) == []


@pytest.mark.parametrize('name', ['franka_table', 'ur5e_table'])
def test_the_physical_cells_say_where_their_driver_tells_of_a_protective_stop(name):
    content = yaml.safe_load(find_config('cells', name).read_text())
    topics = parse(Topics, content['topics'], name)
    assert topics.protective_stop.type == 'bool' and isinstance(topics.protective_stop.stopped[0], bool)


@pytest.mark.parametrize(('topics', 'told'), [
    ({'image': 'my camera'}, "topics.image is 'my camera'"),
    ({'image': 'a', 'camera_info': 'a'}, 'topics.image and topics.camera_info are both'),
    ({'arm_command': '/gripper_controller/joint_trajectory'}, 'topics.arm_command and topics.gripper_command are both'),
    ({'image': 'camera/camera_info'}, 'topics.image and topics.camera_info are both'),
    ({'protective_stop': {'topic': 'joint_states'}}, 'topics.joint_states and topics.protective_stop.topic are both'),
    ({'arm_command': 'proposal'}, "topics.arm_command is 'proposal', on which the nodes of this package"),
    ({'protective_stop': {'topic': 'task', 'type': 'string', 'stopped': ['x']}}, "protective_stop.topic is 'task', on"),
    ({'protective_stop': {'topic': 'x', 'stopped': [True, False]}}, 'would always be stopped: name the one'),
    ({'imag': 'a'}, "unknown key 'imag'"),
    ({'protective_stop': {'topic': 'x', 'type': 'int'}}, 'bool, string'),
    ({'protective_stop': {'topic': 'x', 'type': 'string', 'stopped': [True]}}, 'the type is string'),
    ({'protective_stop': {'topic': 'x', 'stopped': ['yes']}}, 'true or false'),
    ({'protective_stop': {'topic': 'x', 'stopped': []}}, 'at least one value'),
    ({'protective_stop': {'topic': 'x', 'max_age_s': -1.0}}, 'max_age_s is -1.0'),
    ({'protective_stop': {'topic': 'x', 'max_age_s': 0.01}}, 'give 0 where the driver tells changes only'),
    ({'protective_stop': {'topic': '9x'}}, "topics.protective_stop.topic is '9x'"),
    ({'protective_stop': {'stopped': [True]}}, "key 'topic' is missing"),
])
def test_a_section_that_cannot_be_meant_is_refused_by_key(tmp_path, topics, told):
    path = cell_file(tmp_path, topics)
    with pytest.raises(UserError, match=told) as refused:
        load_cell(path)
    assert str(refused.value).startswith(path)
