"""The names of the interface's topics and services, free of ROS; qualities of service are in ``nodes/interface.py``."""

from __future__ import annotations

IMAGE = 'camera/image_raw'
COMPRESSED_IMAGE = 'camera/image_raw/compressed'
CAMERA_INFO = 'camera/camera_info'
JOINT_STATES = 'joint_states'
TASK = 'task'
PROPOSAL = 'proposal'
ARM_COMMAND = 'joint_trajectory_controller/joint_trajectory'
GRIPPER_COMMAND = 'gripper_controller/joint_trajectory'
OUTCOME = 'outcome'
DIAGNOSTICS = '/diagnostics'
CHAIN_OF_THOUGHT = '~/chain_of_thought'
CORRECTION = '~/correction'
HEARTBEAT = 'agent_heartbeat'
GATE_HEARTBEAT = 'gate_heartbeat'
AUDIT_HEARTBEAT = 'audit_heartbeat'
CLOCK = 'clock'
RESET = 'world/reset'

OF_CELL = {'image': IMAGE, 'camera_info': CAMERA_INFO, 'joint_states': JOINT_STATES, 'arm_command': ARM_COMMAND,
           'gripper_command': GRIPPER_COMMAND}
"""What the section ``topics`` of a cell file can name otherwise, by its keys."""

ALL = (IMAGE, COMPRESSED_IMAGE, CAMERA_INFO, JOINT_STATES, TASK, PROPOSAL, ARM_COMMAND, GRIPPER_COMMAND, OUTCOME,
       DIAGNOSTICS, CHAIN_OF_THOUGHT, CORRECTION, HEARTBEAT, GATE_HEARTBEAT, AUDIT_HEARTBEAT)
"""What a cell says that is worth keeping."""
