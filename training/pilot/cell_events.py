"""What happens in one episode at a cell, from the events that agent, gate and line publish. Free of ROS."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from vlm_agent_ros.safety.verdict import is_gate_hit
from vlm_agent_ros.types import Outcome

from .results import PilotEpisode

_SAME_PROPOSAL = ('verdict', 'image_stamp_ns', 'command_stamp_ns', 'rule')


class EpisodeWatch:
    """Counts the events of episodes; statuses that are only repeated count once, also across episodes.

    Attributes:
        deciders: Digests of the weights that have decided in this episode.
        ended: Whether an outcome has ended it.
    """

    def __init__(self) -> None:
        self._verdict: tuple[str, ...] = ()
        self._stopped = False
        self.begin()

    def begin(self) -> None:
        """A new episode; nothing has happened in it."""
        self._counts: Counter[str] = Counter()
        self._kpi: Counter[str] = Counter()
        self._outcomes: list[Outcome] = []
        self.deciders: set[str] = set()
        self._rejected: set[str] = set()
        self._corrected: set[str] = set()
        self._decided = False

    @property
    def ended(self) -> bool:
        """See the class."""
        return bool(self._outcomes) and (self._outcomes[-1].terminated or self._outcomes[-1].truncated)

    def on_outcome(self, outcome: Outcome) -> None:
        """The line has judged a turn."""
        if not self.ended:
            self._outcomes.append(outcome)
            self._kpi.update(outcome.kpi)

    def on_verdict(self, values: Mapping[str, str]) -> None:
        """The gate says what became of a proposal, for the first time or again."""
        verdict = tuple(values.get(key, '') for key in _SAME_PROPOSAL)
        if verdict == self._verdict:
            return
        self._verdict = verdict
        said, rule = values.get('verdict', ''), values.get('rule', '')
        if said == 'forwarded':
            self._counts['approvals'] += values.get('mode') == 'approve'
            self._counts['gate_hits'] += values.get('clamped', '') not in ('', 'False', 'false', '0')
        elif said == 'refused':
            if rule == 'approval':
                self._counts['rejections'] += 1
                self._rejected.add(values.get('image_stamp_ns', ''))
            self._counts['gate_hits'] += is_gate_hit(rule)

    def on_stop(self, active: bool) -> None:
        """The gate says whether the arm is stopped."""
        self._counts['stops'] += active and not self._stopped
        self._stopped = active

    def on_correction(self, said: str) -> None:
        """The operator has said what would have been right, in the JSON of ``~/correction``."""
        self._counts['corrections'] += 1
        with suppress(ValueError, KeyError, TypeError):
            self._corrected.add(str(json.loads(said)['image_stamp_ns']))

    def on_decision(self, checkpoint_sha256: str) -> None:
        """The agent has decided."""
        self._decided = True
        if checkpoint_sha256:
            self.deciders.add(checkpoint_sha256)

    def episode(self, blank: PilotEpisode, cycle_s: float) -> PilotEpisode:
        """What has happened since ``begin``; the episode is lost if more than one checkpoint decided in it, or none.

        Args:
            blank: Number, label, task and start.
            cycle_s: Its length, s.
        """
        counts: dict[str, Any] = {name: self._counts[name] for name in (
            'approvals', 'rejections', 'corrections', 'stops', 'gate_hits')}
        counts['corrected_rejections'] = len(self._rejected & self._corrected)  # whichever topic was heard first
        last = self._outcomes[-1] if self._outcomes else None
        mixed = 'more than one checkpoint decided in it' if len(self.deciders) > 1 else ''
        late = 'an outcome came before any decision, as of the episode before' if last and not self._decided else ''
        return replace(blank, checkpoint=next(iter(self.deciders), '') if not mixed else '', cycle_s=cycle_s, **counts,
                       reached=bool(last and last.success), turns=len(self._outcomes), kpi=dict(self._kpi),
                       total_reward=sum(outcome.reward for outcome in self._outcomes), lost=blank.lost or mixed or late)
