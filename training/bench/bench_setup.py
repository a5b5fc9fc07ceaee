"""What every part of the benchmark is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class BenchSetup:
    """One run of the benchmark.

    Attributes:
        seed: Seed of everything that is drawn.
        repeats: Rounds of each comparison, at least 5 for figures that are published.
        quick: The smallest sizes, for the tests: the figures mean little.
        model: Models file or model directory.
        device: As PyTorch names it.
        folder: Exists; a part may keep files in a folder of its name within it.
    """

    seed: int
    repeats: int
    quick: bool
    folder: Path
    model: str = 'tiny_vlm'
    device: str = 'cpu'


@dataclass
class PartResult:
    """What a part measured.

    Attributes:
        figures: For results.json: names, numbers, and dictionaries of them.
        rows: Lines of the Markdown table: what was compared, the measured figure, the target (empty where none).
        repeats: How often it was measured, where that is not what was asked for.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    repeats: int = 0


Part = Callable[[BenchSetup], PartResult]
"""The function ``run`` of the module of a part: a target that is missed is a figure, not an error."""
