"""What the form of a checkpoint costs: success, latency and memory, each model in a fresh process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes.process import with_sources

_ROWS = (('success', 'success', 100.0, '%'), ('latency_ms', 'mean time of a decision', 1.0, 'ms'),
         ('peak_memory_mib', 'peak memory, simulated cell included', 1.0, 'MiB'),
         ('size_mib', 'files', 1.0, 'MiB'))


@dataclass(frozen=True)
class Trial:
    """The episodes that are played; the same held-out ones with every model."""

    task: str
    world: str
    episodes: int

    def check(self, grid: int) -> None:
        """Refuse a task or a world that does not exist or has other actions, before anything is exported.

        Raises:
            UserError: Naming it.
        """
        from ..session import check_names, language_of

        check_names([self.task], [self.world])
        if (here := language_of(self.world).grid) != grid:
            raise UserError(f'the cell of world {self.world} has a grid of {here}, but the bundle is for one of '
                            f'{grid}: give the world of the cell with --world')


def measure(model: str, trial: Trial) -> dict[str, float]:
    """Success, its interval, latency of single decisions and peak memory of the process, by name.

    Args:
        model: Checkpoint, bundle, model directory or models file.
        trial: What it plays.

    Raises:
        UserError: It cannot be evaluated.
    """
    with tempfile.TemporaryDirectory(prefix='vlm-agent-measure-') as folder:
        result, log = Path(folder) / 'result.json', Path(folder) / 'log'
        command = [sys.executable, '-m', 'training', 'evaluate', '--checkpoint', model, '--task', trial.task, '--world',
                   trial.world, '--episodes', str(trial.episodes), '--transport', 'in-process', '--worlds', '1',
                   '--out', str(result)]
        with log.open('wb') as stream:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                                       env=with_sources(os.environ))
            try:
                _, status, usage = os.wait4(process.pid, 0)  # unlike Popen.wait it tells what the process used
            except BaseException:
                process.kill()
                raise
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            words = (log.read_text(errors='replace').strip().splitlines() or ['no reason given'])[-1]
            raise UserError(f'{model} cannot be measured ({words}): correct that, or export it with --measure 0')
        suite = json.loads(result.read_text(encoding='utf-8'))['suites'][0]
    return {'success': suite['success'], 'ci95': suite['ci95'], 'episodes': suite['n'],
            'latency_ms': round(suite['latency_ms'], 2), 'peak_memory_mib': round(usage.ru_maxrss / 1024, 1)}


def size_mib(folder: Path) -> float:
    """Of the files of a directory, MiB."""
    return round(sum(file.stat().st_size for file in folder.iterdir()) / 2**20, 2)


def measured(original: dict[str, Any], bundle: dict[str, Any], trial: Trial) -> dict[str, Any]:
    """What the manifest says of both, and of what the form of the bundle costs."""
    loss = {key: round(bundle[key] - original[key], 4) for key, *_ in _ROWS if key in original and key in bundle}
    return {'original': original, 'bundle': bundle, 'difference': loss, **asdict(trial)}


def table(original: dict[str, Any], bundle: dict[str, Any]) -> str:
    """Both side by side, as text."""
    lines: list[tuple[str, ...]] = [('', 'original', 'bundle')]
    for key, label, factor, unit in _ROWS:
        cells = [f'{figures[key] * factor:.1f} {unit}' if key in figures else '' for figures in (original, bundle)]
        if key == 'success':
            cells = [f'{cell} ({100 * figures["ci95"][0]:.1f} to {100 * figures["ci95"][1]:.1f}, n = '
                     f'{figures["episodes"]})' for cell, figures in zip(cells, (original, bundle))]
        lines.append((label, *cells))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
