"""The tasks of the table-top cell, by name."""

from vlm_agent_ros.errors import UserError

from .base import Goal, SceneState, Task
from .pick import Pick
from .place import Place

TASKS: dict[str, type[Task]] = {task.name: task for task in (Pick, Place)}

__all__ = ['TASKS', 'Goal', 'SceneState', 'Task', 'make_task']


def make_task(name: str) -> Task:
    """The task of a name.

    Raises:
        UserError: There is none; the message lists those that there are.
    """
    if name not in TASKS:
        raise UserError(f'no task named {name!r}: choose one of {", ".join(sorted(TASKS))}')
    return TASKS[name]()
