"""The agent without ROS: from an observation to what the policy reads, and from its action to a motion."""

from __future__ import annotations

import numpy as np

from .actions import ActionLanguage, SkillLanguage
from .cell import Cell
from .errors import UserError
from .motion import SkillPlanner
from .policy.policy import PolicyInput
from .policy.prompt import PromptTemplate
from .types import Observation, Trajectory


class Agent:
    """What agent node and trainer share around the policy.

    Args:
        cell: The cell that the agent decides for.
        prompt: Template of the user message; belongs to the model.
        language: Action language; the skill language on the cell's grid by default.
        planner: Made from the cell by default.
    """

    def __init__(self, cell: Cell, prompt: PromptTemplate, language: ActionLanguage | None = None,
                 planner: SkillPlanner | None = None) -> None:
        self.cell = cell
        self.prompt = prompt
        self.language = language or SkillLanguage(cell.grid)
        self.planner = planner or SkillPlanner(cell)

    def policy_input(self, observation: Observation, previous: str = '') -> PolicyInput:
        """Image and prompt of a decision.

        Args:
            observation: What the cell shows.
            previous: As for ``PromptTemplate.render``.

        Raises:
            UserError: The image or the joint states are not what the cell file promises.
        """
        camera, image = self.cell.camera, observation.image
        if image.dtype != np.uint8 or image.shape != (camera.height, camera.width, 3):
            raise UserError(
                f'camera/image_raw is {image.shape} {image.dtype}, but {self.cell.path} says '
                f'({camera.height}, {camera.width}, 3) uint8: correct camera.width/height or the camera driver'
            )
        missing = [name for name in self.cell.robot.joints if name not in observation.joint_names]
        if missing:
            raise UserError(f'joint_states lacks {", ".join(missing)}: correct robot.*_joints of {self.cell.path}')
        if not np.isfinite(observation.joint_positions).all():
            raise UserError('joint_states holds a position that is not finite: check the joint state broadcaster')
        state = self.cell.gripper_state(observation.joint_names, observation.joint_positions)
        return PolicyInput(image, self.prompt.render(observation.task, state, self.language, previous))

    def plan(self, action_text: str, observation: Observation) -> Trajectory | None:
        """The motion of an action from the measured joint positions; None where nothing is to move.

        Raises:
            ActionError: The text is not an action of the language.
            MotionError: The arm cannot carry it out.
        """
        command = self.language.parse(action_text)
        return self.planner.plan(command, observation.joint_names, observation.joint_positions)

    def hold(self, observation: Observation) -> Trajectory:
        """The motion that goes nowhere."""
        return self.planner.hold(observation.joint_names, observation.joint_positions)
