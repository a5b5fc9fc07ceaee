"""Where a node keeps files: cells in namespaces may share a cell file, but neither evidence, releases nor log."""

from __future__ import annotations

import os
from pathlib import Path

from rclpy.node import Node

_PRODUCT = 'vlm_agent_ros'


def below_namespace(node: Node, folder: Path) -> Path:
    """A folder of this node's cell alone: itself, or the one below it that is named after the namespace."""
    return folder / node.get_namespace().strip('/')


def state_file(node: Node, given: str, name: str) -> Path:
    """Path of a file that survives restarts.

    Args:
        node: Whose it is.
        given: By parameter; empty for ``name`` in ``vlm_agent_ros`` and the namespace below ``$XDG_STATE_HOME`` or
            ``~/.local/state``.
        name: Its name there.
    """
    state = Path(os.environ.get('XDG_STATE_HOME') or '~/.local/state')
    return (Path(given) if given else below_namespace(node, state / _PRODUCT) / name).expanduser()
