"""The tasks of the table-top cell, by name."""

from vlm_agent_ros.errors import UserError

from .base import Assignment, Goal, SceneState, Task
from .clear import Clear
from .inspect import Inspect
from .pick import Pick
from .place import Place
from .sort import Sort
from .stack import Stack

TASKS: dict[str, type[Task]] = {task.name: task for task in (Pick, Place, Stack, Sort, Inspect, Clear)}

__all__ = ['TASKS', 'Assignment', 'Goal', 'SceneState', 'Task', 'make_task']


def make_task(name: str) -> Task:
    """The task of a name.

    Raises:
        UserError: There is none; the message lists those that there are.
    """
    if name not in TASKS:
        raise UserError(f'no task named {name!r}: choose one of {", ".join(sorted(TASKS))}')
    return TASKS[name]()
