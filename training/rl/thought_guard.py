"""The thought guard: the simulator knows the scene, so it can check every thought and say the right one.

PPO rewards outcomes only; a thought may drift from what the image shows (thought collapse) as long as the action is
right, and a policy that is sure of something false hardly ever samples the truth. The guard needs no larger model: with
the outcome of a turn the world sends what was true before it, and what the scripted expert would have thought.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sim_worlds.statements import judge
from vlm_agent_ros.policy.output import format_output
from vlm_agent_ros.policy.policy import Decision, Policy

from ..worlds.episodes import Episode, Turn


def is_grounded(thought: str, scene: str) -> bool:
    """Whether a thought states something, and nothing that is false."""
    verdicts = judge(thought, scene)
    return bool(verdicts) and all(verdicts)


def grounding_metrics(turns: Iterable[Turn]) -> dict[str, float]:
    """Shares of true thoughts and of true statements, by metric name; empty where no simulator says what is true."""
    checked = [judge(turn.decision.thought, turn.outcome.scene)
               for turn in turns if turn.outcome is not None and turn.outcome.scene]
    if not checked:
        return {}
    statements = [verdict for verdicts in checked for verdict in verdicts]
    return {'grounded': sum(bool(verdicts) and all(verdicts) for verdicts in checked) / len(checked),
            'grounded_statements': sum(statements) / max(len(statements), 1)}


def thought_collapse(episodes: Sequence[Episode]) -> dict[str, float]:
    """Share of decisions whose thought was also written for another image or instruction, of another seed.

    Within a seed a scene may look a little different and still call for the same words, after a missed grasp say.
    """
    written: dict[str, set[tuple[int, str, int]]] = {}
    thoughts = []
    for episode in episodes:
        for turn in episode.turns:
            seen = (episode.slot.request.seed, turn.input.prompt, hash(turn.input.image.tobytes()))
            thoughts.append((turn.decision.thought, seen))
            written.setdefault(turn.decision.thought, set()).add(seen)
    if not thoughts:
        return {}
    repeated = sum(any(other[0] != seen[0] and other[1:] != seen[1:] for other in written[thought])
                   for thought, seen in thoughts)
    return {'thought_collapse': repeated / len(thoughts)}


def corrections(turns: Iterable[Turn], policy: Policy) -> list[Decision | None]:
    """What should have been written, for every turn whose thought was false; None for the others.

    Turns of a group share their observation: it is corrected once. A correction that the action language does not
    know, or that is longer than the policy may write, is left out.
    """
    seen: set[tuple[str, bytes]] = set()
    found: list[Decision | None] = []
    for turn in turns:
        outcome, key = turn.outcome, (turn.input.prompt, turn.input.image.tobytes())
        right = None
        if outcome is not None and outcome.scene and outcome.expert_thought and key not in seen and not is_grounded(
                turn.decision.thought, outcome.scene):
            seen.add(key)
            written = policy.written(format_output(outcome.expert_thought, outcome.expert_action))
            if written.legal and len(written.thought) <= policy.config.decoding.max_thought_chars:
                right = written
        found.append(right)
    return found
