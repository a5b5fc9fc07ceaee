"""The episodes of a pilot on disk: one line each, appended and synced, so that a pilot that is cut off goes on."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_agent_ros.config import parse
from vlm_agent_ros.errors import UserError

from ..metrics import write_error
from .plan import Plan, SuccessCriterion


@dataclass(frozen=True)
class PilotEpisode:
    """What the line says of one episode.

    Attributes:
        number: Place in the order of the plan, from 0.
        label: Whose it was, ``A`` or ``B``.
        checkpoint: Digest of what decided; empty where nobody says.
        task: Task or instruction.
        started: Wall time of its beginning, s since 1970.
        reached: Its outcome says that the task was done.
        turns: Outcomes.
        total_reward: Sum of their rewards.
        cycle_s: From the task to the end of the episode, thinking and waiting for the operator included, s.
        approvals, rejections, corrections, stops: Of the operator and the gate.
        corrected_rejections: Rejections that came with a correction, both of them counted above.
        gate_hits: Proposals that the rules refused or clamped.
        kpi: Sums of the KPI terms.
        lost: Why the line could not finish it; such an episode is played again and counts for nothing else.
    """

    number: int
    label: str
    checkpoint: str
    task: str
    started: float
    reached: bool = False
    turns: int = 0
    total_reward: float = 0.0
    cycle_s: float = 0.0
    approvals: int = 0
    rejections: int = 0
    corrections: int = 0
    stops: int = 0
    corrected_rejections: int = 0
    gate_hits: int = 0
    kpi: dict[str, float] = field(default_factory=dict)
    lost: str = ''

    @property
    def interventions(self) -> int:
        """How often somebody had to step in; a rejection with its correction is once."""
        return self.rejections + self.corrections - self.corrected_rejections + self.stops

    def succeeds(self, criterion: SuccessCriterion) -> bool:
        """Whether it is a success by the plan."""
        limits = ((self.turns, criterion.max_turns or None), (self.cycle_s, criterion.max_cycle_s or None),
                  (self.interventions, criterion.max_interventions), (self.gate_hits, criterion.max_gate_hits))
        return self.reached and all(limit is None or value <= limit for value, limit in limits)


class PilotResults:
    """``results.jsonl`` of a pilot: a line with the plan, then one per episode.

    Args:
        folder: Of the pilot.
        plan: Whose digest the results carry.

    Attributes:
        episodes: All that were played, lost ones among them.

    Raises:
        UserError: The results belong to another plan or are damaged, or the folder cannot be written to.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.path = folder / 'results.jsonl'
        self._head = {'plan_sha256': plan.digest(), 'plan': dataclasses.asdict(plan)}
        lines = self._whole_lines()
        if lines:
            self._check_plan(self._row(1, lines[0]))
        self.episodes: list[PilotEpisode] = []
        for number, line in enumerate(lines[1:], start=2):
            episode, due = self._episode(number, line), len(self.finished)
            if episode.number != due:
                raise UserError(f'{self.path}: line {number} is of episode {episode.number}, not {due}: restore the '
                                'file from a copy, or begin anew with another --out')
            self.episodes.append(episode)

    @property
    def finished(self) -> list[PilotEpisode]:
        """The episodes that count, in their order."""
        return [episode for episode in self.episodes if not episode.lost]

    def append(self, episode: PilotEpisode) -> None:
        """Keep an episode; it is on the disk when this returns.

        Raises:
            UserError: There is no space left.
        """
        rows = [dataclasses.asdict(episode)]
        if not self.episodes:
            rows.insert(0, self._head)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, 'a' if self.episodes else 'w', encoding='utf-8') as file:
                file.write(''.join(json.dumps(row) + '\n' for row in rows))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from error
        self.episodes.append(episode)

    def _check_plan(self, head: dict[str, Any]) -> None:
        if head.get('plan_sha256') != self._head['plan_sha256']:
            begun = dict(head.get('plan') or {})
            changed = sorted(key for key, value in json.loads(json.dumps(self._head['plan'])).items()
                             if begun.get(key) != value)
            raise UserError(f'{self.path} was begun with another plan (different: {", ".join(changed) or "all"}): a '
                            'plan is not changed once a pilot has begun; restore it, or begin anew with another --out')

    def _whole_lines(self) -> list[str]:
        """The lines that there are, after cutting off one that a killed process has left unfinished."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f'{self.path} cannot be read ({error.strerror}): check its permissions') from error
        whole = content[:content.rfind(b'\n') + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        return whole.decode(errors='replace').splitlines()

    def _row(self, number: int, line: str) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise self._damaged(number)
        return row

    def _episode(self, number: int, line: str) -> PilotEpisode:
        try:
            return parse(PilotEpisode, self._row(number, line), f'{self.path}: line {number}')
        except UserError as error:
            raise self._damaged(number) from error

    def _damaged(self, number: int) -> UserError:
        return UserError(f'{self.path}: line {number} is damaged: restore the file from a copy, or begin anew with '
                         'another --out')
