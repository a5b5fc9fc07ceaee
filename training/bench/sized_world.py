"""The shipped world with a camera of another size, as files that worlds in any process can read."""

from __future__ import annotations

from pathlib import Path

import yaml

from vlm_agent_ros.config import find_config, load_yaml


def sized_world(size: int, folder: Path) -> str:
    """Write a world and its cell.

    Args:
        size: Width and height of its pictures, pixels.
        folder: Made if missing.

    Returns:
        Path of the world file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cell, world = load_yaml(find_config('cells', 'panda_table')), load_yaml(find_config('worlds', 'panda_table'))
    cell['camera'] |= {'width': size, 'height': size}
    paths = [folder.absolute() / f'{kind}_{size}.yaml' for kind in ('cell', 'world')]
    for path, content in zip(paths, (cell, world | {'cell': str(paths[0])})):
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding='utf-8')
    return str(paths[1])
