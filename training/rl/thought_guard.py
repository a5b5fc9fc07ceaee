"""The thought guard: the simulator knows the scene, so it can check every thought and say the right one.

PPO rewards outcomes only; a thought may drift from what the image shows (thought collapse) as long as the action is
right, and a policy that is sure of something false hardly ever samples the truth. The guard needs no larger model: with
the outcome of a turn the world sends what was true before it, and what the scripted expert would have thought. And a
thought is worth reading only if the action follows from it: where it is true, the action shall be the one that it
comes to. Where there is no such simulator, what the reward has shown to be good can be taught in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

import numpy as np

from sim_worlds.statements import conclusion, judge
from vlm_agent_ros.policy.output import format_output
from vlm_agent_ros.policy.policy import Decision, Policy
from vlm_agent_ros.types import Outcome

from ..worlds.episodes import Episode, Turn
from .algorithms import Correction

_ROUNDING = 1e-6  # what earned no more than this earned what was expected


def is_grounded(thought: str, scene: str) -> bool:
    """Whether a thought states something, and nothing that is false."""
    verdicts = judge(thought, scene)
    return bool(verdicts) and all(verdicts)


def grounding_metrics(turns: Iterable[Turn]) -> dict[str, float]:
    """By metric name; empty where no simulator says what is true.

    ``grounded`` and ``grounded_statements`` are the shares of true thoughts and of true statements, ``faithful`` is the
    share of actions that are the conclusion of their thought.
    """
    turns = list(turns)
    checked = [judge(turn.decision.thought, turn.outcome.scene)
               for turn in turns if turn.outcome is not None and turn.outcome.scene]
    if not checked:
        return {}
    statements = [verdict for verdicts in checked for verdict in verdicts]
    follows = [turn.decision.action == conclusion(turn.decision.thought) for turn in turns]
    return {'grounded': sum(bool(verdicts) and all(verdicts) for verdicts in checked) / len(checked),
            'grounded_statements': sum(statements) / max(len(statements), 1),
            'faithful': sum(follows) / len(follows)}


def thought_collapse(episodes: Sequence[Episode]) -> dict[str, float]:
    """Share of decisions whose thought was also written for another image or instruction, of another seed.

    Within a seed a scene may look a little different and still call for the same words, after a missed grasp say. Empty
    where nothing is thought.
    """
    written: dict[str, set[tuple[int, str, int]]] = {}
    thoughts = []
    for episode in episodes:
        for turn in episode.turns:
            seen = (episode.slot.request.seed, turn.input.prompt, hash(turn.input.image.tobytes()))
            thoughts.append((turn.decision.thought, seen))
            written.setdefault(turn.decision.thought, set()).add(seen)
    if not any(thought for thought, _ in thoughts):
        return {}
    repeated = sum(any(other[0] != seen[0] and other[1:] != seen[1:] for other in written[thought])
                   for thought, seen in thoughts)
    return {'thought_collapse': repeated / len(thoughts)}


def corrections(turns: Iterable[Turn], policy: Policy, every: bool = False) -> list[Correction | None]:
    """What should have been written, for every turn whose thought was false or not followed; None for the others.

    A false thought is corrected to the expert's, its tokens alone: the action is left to the reward. A true thought
    whose action is another than its conclusion keeps its words, and the action is corrected. Turns of a group share
    their observation: it is corrected once. A correction that the action language does not know, or that is longer than
    the policy may write, is left out.

    Args:
        turns: Of finished episodes.
        policy: Knows how an output is written.
        every: Teach every thought, as GTR (ICCV 2025) does: one that is true but led nowhere, while the expert would
            have acted otherwise, is corrected too, and the others are confirmed, each together with the action that it
            comes to. What is taught of a few false thoughts alone moves the many right ones along with them; and where
            many are false, the reward is for acting otherwise than one thinks, so that actions come off the thoughts.
    """
    seen: set[tuple[str, ...]] = set()
    found: list[Correction | None] = []
    for turn in turns:
        outcome, thought, action = turn.outcome, turn.decision.thought, conclusion(turn.decision.thought)
        right: Correction | None = None
        if outcome is not None and outcome.scene:
            wrong = not is_grounded(thought, outcome.scene) or (every and _led_nowhere(outcome, turn.decision.action))
            if wrong:
                thought, action = outcome.expert_thought, outcome.expert_action
            key = turn.input.prompt, sha256(turn.input.image.tobytes()).hexdigest(), thought
            of_thought = wrong or action == turn.decision.action
            if action and (every or wrong or not of_thought) and key not in seen:
                seen.add(key)
                right = _correction(thought, action, policy, of_thought=of_thought, of_action=every or not of_thought)
        found.append(right)
    return found


def earned(decisions: Sequence[Decision], gains: Sequence[float], policy: Policy) -> list[Correction | None]:
    """What the policy itself wrote that earned more than expected, where nobody knows what is true.

    Self-imitation (Oh et al. 2018, arXiv 1806.05635, eq. 2): the likelihood of a decision weighs as much as it earned
    more than expected, when it was made: it keeps this weight where it is learned from again. A rare success is thus
    learned from again and again instead of in one update. An illegal output earned nothing, also where it names an
    action that would be admissible elsewhere: what happened was another one.

    Args:
        decisions: Of finished episodes.
        gains: Of each, as in ``Sample``.
        policy: Knows how an output is written.
    """
    return [Correction(said, np.full(len(said.token_ids), gain))
            if gain > _ROUNDING and decision.legal and policy.encoder.special_token_in(decision.text) is None
            and (said := policy.written(decision.text)).legal else None
            for decision, gain in zip(decisions, gains)]


def _led_nowhere(outcome: Outcome, action: str) -> bool:
    """Whether an action brought the task no further, although the expert knows another one."""
    return outcome.kpi.get('progress', 0.0) <= 0.0 and outcome.expert_action not in ('', action)


def _correction(thought: str, action: str, policy: Policy, *, of_thought: bool, of_action: bool) -> Correction | None:
    try:
        said = policy.written(format_output(thought, action))
    except ValueError:  # without the grammar a true thought may hold a line break
        return None
    if not said.legal or len(said.thought) > policy.config.decoding.max_thought_chars:
        return None
    return Correction(said, np.where(said.thought_mask, of_thought, of_action))
