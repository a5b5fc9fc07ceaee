"""``vlm-agent pilot``: two checkpoints on one line by a plan made beforehand, and the page that decides."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_agent_ros.errors import UserError

from ..rl.run_folder import claimed

if TYPE_CHECKING:  # these bring PyTorch with them
    from ..progress import Phase
    from .line import Line
    from .plan import Plan
    from .results import PilotEpisode, PilotResults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('plan', metavar='PLAN', help='plan file, by path or by name in config/pilots')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='folder of results.jsonl, decision.json and '
                        'decision.html (default: runs/pilots/<name of the plan>); the same command continues a pilot '
                        'that was cut off')


def run(args: argparse.Namespace) -> None:
    """Play what the plan says, or what is left of it, and write the decision.

    Raises:
        UserError: Plan, checkpoints or line are unusable, or the folder holds a pilot of another plan.
        KeyboardInterrupt: After an interrupt; the message says how to go on.
    """
    from .plan import load_plan

    plan = load_plan(args.plan)
    folder = args.out or Path('runs/pilots') / Path(args.plan).stem
    with claimed(folder, 'pilot', '--out'):
        print(_run(plan, folder))


def _run(plan: Plan, folder: Path) -> str:
    """The pilot in a folder that is this process' alone; returns the closing words."""
    # After the plan, because these bring PyTorch.
    from ..progress import Progress
    from .decision import RUNNING, sequential_test, verdict_of
    from .line import open_line
    from .results import PilotResults

    results = PilotResults(folder, plan)
    words = ''
    try:
        if verdict_of(plan, results.episodes, sequential_test(plan, results.finished)) == RUNNING:
            with contextlib.closing(open_line(plan)) as line, Progress(sys.stderr) as progress:
                play(plan, results, line, progress.phase('pilot', plan.max_episodes, len(results.finished)))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f'stopped after {len(results.finished)} episodes: the same command continues') from None
    finally:
        if results.episodes:  # also of a pilot that goes on later
            words = write_decision(folder, plan, results)
    return words


def play(plan: Plan, results: PilotResults, line: Line, phase: Phase) -> None:
    """Episodes until something ends the pilot.

    Raises:
        UserError: The line is unusable, or a label stands for other weights than before.
    """
    from .decision import RUNNING, sequential_test, verdict_of

    test = sequential_test(plan, results.finished)
    while verdict_of(plan, results.episodes, test) == RUNNING:
        episode = line.play(len(results.finished))
        check_identity(results, episode)
        results.append(episode)
        if not episode.lost:
            if not len(results.finished) % plan.block:
                test = sequential_test(plan, results.finished)
            phase.advance(1, 'difference {:+.2f} to {:+.2f}'.format(*test.interval))


def check_identity(results: PilotResults, episode: PilotEpisode) -> None:
    """Refuse an episode whose checkpoint is not the one that the pilot began with.

    Raises:
        UserError: A label stands for other weights than before, or for those of the other label.
    """
    for other in results.episodes if episode.checkpoint else ():
        same = other.checkpoint == episode.checkpoint
        if other.checkpoint and same != (other.label == episode.label):
            what = (f'the weights of {other.label}' if same else 'other weights than before')
            raise UserError(f'{episode.label} was decided by {what} (SHA-256 {episode.checkpoint[:12]}…): a pilot '
                            'compares two different checkpoints that stay as they are; restore the checkpoint, look '
                            'whether the cell has rolled it back, or begin anew with another plan and --out')


def write_decision(folder: Path, plan: Plan, results: PilotResults) -> str:
    """Write decision.json and decision.html; returns the closing words."""
    from ..metrics import write_atomically
    from .decision import decide
    from .decision_page import render_decision

    decision = decide(plan, results.episodes)
    write_atomically(folder / 'decision.json', json.dumps(decision, indent=2) + '\n')
    write_atomically(folder / 'decision.html', render_decision(decision))
    return f'{decision["verdict"]} after {decision["episodes"]} episodes; see {folder / "decision.html"}'
