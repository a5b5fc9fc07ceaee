"""A cell that costs little: small images, and a model that has learned nothing and moves the arm at random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vlm_agent_ros.cell import load_cell
from vlm_agent_ros.config import find_config, load_yaml


@dataclass(frozen=True)
class LightCell:
    """Files of a light cell.

    Attributes:
        cell: Cell file; ``auto`` needs no evidence there, moves at full speed, and a stop does not leave it.
        world: World file of that cell.
        model: Models file; its outputs are legal.
    """

    cell: str
    world: str
    model: str


def make_light_cell(folder: Path, world: str, **sections: dict[str, Any]) -> LightCell:
    """Write the files.

    Args:
        folder: Made if missing.
        world: World file that it is made from, by name or path.
        sections: Keys of sections of the cell file that are to be other than there.

    Raises:
        UserError: The world or its cell are missing or wrong.
    """
    from ..sft.tiny_vlm import TinyVlmConfig, build_tiny_vlm

    folder.mkdir(parents=True, exist_ok=True)
    shown = load_yaml(find_config('worlds', world))
    cell_path = Path(load_cell(shown.get('cell', 'panda_table')).path)
    cell = load_yaml(cell_path)
    cell['camera'] |= {'width': 64, 'height': 64}
    cell['autonomy'] = {**cell.get('autonomy', {}), 'approved_episodes': 0, 'blend_episodes': 0, 'on_stop': 'keep',
                        'on_gate_hit': 'keep'}
    for name, keys in sections.items():
        cell[name] = {**cell.get(name, {}), **keys}
    (folder / 'cell.yaml').write_text(yaml.safe_dump(cell), encoding='utf-8')
    (folder / 'world.yaml').write_text(yaml.safe_dump({**shown, 'cell': str(folder / 'cell.yaml')}), encoding='utf-8')
    build_tiny_vlm(TinyVlmConfig(image_size=64, patch_size=32, vision_width=16, vision_layers=1, text_width=16,
                                 text_layers=1, heads=2), folder / 'base', seed=0)
    (folder / 'model.yaml').write_text(yaml.safe_dump({
        'base': str(folder / 'base'), 'lora': None, 'prompt': {'template': 'task: {task}'},
        'decoding': {'max_thought_chars': 20, 'max_new_tokens': 80}}), encoding='utf-8')
    return LightCell(str(folder / 'cell.yaml'), str(folder / 'world.yaml'), str(folder / 'model.yaml'))
