"""From a command of the skill language to a timed joint trajectory within the cell's limits."""

from .kinematics import Kinematics, MotionError
from .planner import SkillPlanner

__all__ = ['Kinematics', 'MotionError', 'SkillPlanner']
