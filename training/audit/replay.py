"""Repeats the decisions of an audit log: same image, prompt, temperature, seed and threads, in batches of one."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.audit.log import AuditLog, LoggedDecision
from vlm_agent_ros.checkpoint import find_policy, load_policy, policy_digest, weights_digest
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.nodes.decider import decide_alone
from vlm_agent_ros.policy.policy import Policy, PolicyInput


@dataclass(frozen=True)
class Repeated:
    """One decision, as it was logged and as it came out now.

    Attributes:
        image_stamp_ns: Of the image that it rests on.
        differs: In what: ``text``, ``thought``, ``action``, ``logprob``; empty if it is the same.
        logged: Thought, action and log-probability then.
        repeated: The same now.
    """

    image_stamp_ns: int
    task: str
    checkpoint: str
    differs: tuple[str, ...]
    logged: dict[str, Any]
    repeated: dict[str, Any]


class Repeater:
    """Loads what decided, and decides again.

    Args:
        log: Says for which cell, and by which checkpoints.
        checkpoint: Decides instead; stderr tells where it is not what decided. Empty for what the log names.
        tolerance: Log-probabilities that are no further apart count as equal, nats; logs hold four decimals.
    """

    def __init__(self, log: AuditLog, checkpoint: str, tolerance: float) -> None:
        self._log, self._checkpoint, self._tolerance = log, checkpoint, tolerance
        self._language = SkillLanguage(log.cell().grid)
        self._policies: dict[tuple[str, str, str], Policy] = {}

    def repeat(self, decision: LoggedDecision) -> Repeated:
        """Decide again.

        Raises:
            UserError: The checkpoint is not here, or is another one than that which decided.
        """
        policy = self._policy(decision)
        torch.set_num_threads(decision.threads)
        prompt = policy.prompt.render(decision.task, decision.state, self._language, decision.previous)
        again = decide_alone(policy, PolicyInput(decision.image, prompt), decision.temperature, decision.seed)
        logprob = float(again.token_logprobs.sum())
        pairs = {'text': (decision.text or again.text, again.text), 'thought': (decision.thought, again.thought),
                 'action': (decision.action, again.action)}
        differs = [name for name, (then, now) in pairs.items() if then != now]
        if not abs(logprob - decision.logprob) <= self._tolerance:
            differs.append('logprob')
        return Repeated(
            decision.image_stamp_ns, decision.task, decision.checkpoint, tuple(differs),
            {'thought': decision.thought, 'action': decision.action, 'logprob': decision.logprob},
            {'thought': again.thought, 'action': again.action, 'logprob': round(logprob, 4)})

    def _policy(self, decision: LoggedDecision) -> Policy:
        key = decision.checkpoint, decision.checkpoint_sha256, decision.prompt_sha256
        if key not in self._policies:
            self._policies[key] = self._load(decision)
        return self._policies[key]

    def _load(self, decision: LoggedDecision) -> Policy:
        name = self._checkpoint or decision.checkpoint
        try:
            found = find_policy(name)
            policy = load_policy(found, language=self._language)
        except UserError as error:
            if self._checkpoint:
                raise
            raise UserError(f'{self._log.path} was decided by {name}, which is not found by this name: give its path '
                            'with --checkpoint') from error
        # Older logs tell the digest of the weights alone.
        here = {'another prompt': ((policy.prompt.digest(),), decision.prompt_sha256),
                'other weights or settings': ((policy_digest(found), weights_digest(found)),
                                              decision.checkpoint_sha256)}
        for what, ((now, *former), then) in here.items():
            if then not in (now, *former):
                said = f'{self._log.path} was decided by {decision.checkpoint} with {what} (SHA-256 {then[:12]}…, here '
                if not self._checkpoint:
                    raise UserError(f'{said}{now[:12]}…): restore it, or compare on purpose with --checkpoint {name}')
                print(f'vlm-agent: {said}{now[:12]}…)', file=sys.stderr)
        return policy


def repeat_all(log: AuditLog, checkpoint: str, tolerance: float, limit: int = 0,
               left_out: Counter[str] | None = None) -> Iterator[Repeated]:
    """Every decision of which the log has the image, in order, up to ``limit`` of them (0 for all).

    Args:
        log: Of a cell.
        checkpoint: As of ``Repeater``.
        tolerance: As of ``Repeater``.
        limit: How many.
        left_out: Counts the others by the reason.

    Raises:
        UserError: As ``Repeater.repeat``.
    """
    repeater, count = Repeater(log, checkpoint, tolerance), 0
    for decision in log.decisions():
        if limit and count >= limit:
            return
        if not decision.image.size:
            if left_out is not None:
                left_out['whose image was dropped, lost or damaged'] += 1
            continue
        count += 1
        yield repeater.repeat(decision)


def summary(results: Iterable[Repeated]) -> dict[str, Any]:
    """Counts, the share of identical decisions (None without any), and those that differ."""
    results = list(results)
    differing = [result for result in results if result.differs]
    return {
        'decisions': len(results),
        'identical': len(results) - len(differing),
        'identical_share': 1.0 - len(differing) / len(results) if results else None,
        'differs_in': dict(Counter(name for result in differing for name in result.differs)),
        'differing': [asdict(result) for result in differing],
    }
