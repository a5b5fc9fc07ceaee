"""How worlds are reached: in this process, or through ROS 2."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.interrupt import deferred_signals

from .cell_worlds import InProcessWorlds
from .pool import WorldPool


def prepare(transport: str) -> None:
    """Import ROS before anything expensive is done.

    The wheels of rclpy start the process anew with another library path when they are first imported.

    Raises:
        UserError: ROS is not installed.
    """
    if transport == 'in-process':
        return
    try:
        with deferred_signals():  # compiled code that is being imported takes an exception for a reason to abort
            importlib.import_module('training.worlds.ros_worlds')
    except ImportError as error:
        if (error.name or '').partition('.')[0] not in ('rclpy', '_rclpy_pybind11'):
            raise
        raise UserError(f'ROS 2 is missing ({error}): run `make setup`, source your ROS installation, or use '
                        '`--transport in-process`') from error


def open_worlds(transport: str, count: int, world: str, *, attach: Sequence[str] = (), logs: Path | None = None
                ) -> WorldPool:
    """Start worlds, or attach to running ones.

    Args:
        transport: ``ros`` or ``in-process``.
        count: Number of worlds.
        world: World file that they start with.
        attach: Namespaces of running worlds.
        logs: Folder for the output of world processes.

    Raises:
        UserError: ROS is not installed.
    """
    if transport == 'in-process':
        return InProcessWorlds(count, world)
    prepare(transport)
    from .ros_worlds import RosWorlds

    pool = RosWorlds(count, world, attach=attach, logs=logs)
    print(f'{pool.size} worlds on ROS_DOMAIN_ID={pool.domain_id}; their decisions are on /diagnostics (rqt, Foxglove)',
          file=sys.stderr, flush=True)
    return pool
