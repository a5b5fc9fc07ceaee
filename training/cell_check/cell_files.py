"""Cell and world files of a check: those that are shipped or given, with some keys changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.config import find_config, load_yaml

_LIGHT: dict[str, dict[str, Any]] = {
    'camera': {'width': 64, 'height': 64},
    # A stop must not lead back to an operator who is not there.
    'autonomy': {'approved_episodes': 0, 'blend_episodes': 0, 'on_stop': 'keep', 'on_gate_hit': 'keep'},
}
# Too low for the fingers of an arm that moves at random: one that sits on a cube is off its path by nobody's fault.
_LOW = {'cubes': 1, 'distractors': [0, 0], 'cube_size': [0.02, 0.02]}


@dataclass(frozen=True)
class CellFiles:
    """Paths of a cell file, and of a world file of that cell."""

    cell: str
    world: str


def write_cell(folder: Path, world: str, sections: dict[str, dict[str, Any]],
               objects: dict[str, Any] | None = None) -> CellFiles:
    """Write the files.

    Args:
        folder: Made if missing.
        world: World file that they are made from, by name or path.
        sections: Keys of sections of the cell file that are to be other than there.
        objects: Keys of the section ``objects`` of the world file that are.

    Raises:
        UserError: The world or its cell are missing or wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = load_yaml(find_config('worlds', world))
    original = load_cell(shown.get('cell', 'panda_table'))
    content = load_yaml(Path(original.path))
    for name, keys in {'robot': {'urdf': str(original.urdf_path)}, **sections}.items():
        content[name] = {**content.get(name, {}), **keys}
    files = CellFiles(str(folder / 'cell.yaml'), str(folder / 'world.yaml'))
    Path(files.cell).write_text(yaml.safe_dump(content), encoding='utf-8')
    lying = {**shown.get('objects', {}), **(objects or {})}
    # Keys in their order: an episode's colours are drawn by their places in the palette.
    Path(files.world).write_text(yaml.safe_dump(
        {**shown, 'cell': files.cell, 'objects': lying}, sort_keys=False), encoding='utf-8')
    return files


def write_light_cell(folder: Path, world: str, audit: Path) -> CellFiles:
    """Files of a cell that costs little and needs no evidence for auto; its log goes to the folder ``audit``."""
    return write_cell(folder, world, {**_LIGHT, 'audit': {'folder': str(audit), 'max_file_mb': 4.0}}, _LOW)


def write_random_model(folder: Path) -> str:
    """Models file of a small model that has learned nothing: its outputs are legal, and move the arm at random."""
    from ..sft.tiny_vlm import TinyVlmConfig, build_tiny_vlm

    build_tiny_vlm(TinyVlmConfig(image_size=64, patch_size=32, vision_width=16, vision_layers=1, text_width=16,
                                 text_layers=1, heads=2), folder / 'base', seed=0)
    path = folder / 'model.yaml'
    path.write_text(yaml.safe_dump({
        'base': str(folder / 'base'), 'lora': None, 'prompt': {'template': 'task: {task}'},
        'decoding': {'max_thought_chars': 20, 'max_new_tokens': 80}}), encoding='utf-8')
    return str(path)
