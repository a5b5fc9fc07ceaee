"""One decision from one observation: what the agent node's worker thread runs. Free of rclpy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..actions import ActionError, SkillLanguage
from ..agent import Agent
from ..bundle import Bundle
from ..cell import Cell, load_cell
from ..checkpoint import find_policy, load_policy, policy_digest, weights_digest
from ..config import bounded
from ..cot import CotReport, Origin
from ..motion import MotionError
from ..policy.config import ModelConfig
from ..policy.policy import Decision, Policy, PolicyInput
from ..release.ledger import Release
from ..release.trust import TrustedKeys
from ..types import Observation, Trajectory


@dataclass(frozen=True)
class DeciderSettings:
    """What decides, and how."""

    cell: str = bounded('panda_table', help='cell file: a shipped name or the path of a YAML file')
    model: str = bounded('tiny_vlm', help='models file by name, a checkpoint directory, or a Hugging Face directory')
    temperature: float = bounded(0.0, low=0.0, high=2.0, help='sampling temperature; 0 takes the likeliest output')
    seed: int = bounded(0, low=0, help='seed of the sampling')
    threads: int = bounded(2, low=1, high=256, help='threads of PyTorch for one inference')


@dataclass(frozen=True)
class Decided:
    """A decision and what became of it.

    Attributes:
        trajectory: The motion to propose; None where nothing is to move or nothing can.
        refusal: Why there is no motion; empty where that is what the agent decided.
    """

    task: str
    decision: Decision
    trajectory: Trajectory | None
    refusal: str
    latency_ms: float
    checkpoint: str
    origin: Origin

    def report(self, image_age_ms: float) -> CotReport:
        """What the operator is shown."""
        decision = self.decision
        return CotReport(
            task=self.task, thought=decision.thought, action=decision.action, text=decision.text,
            logprob=float(decision.token_logprobs.sum()), value=decision.value, latency_ms=self.latency_ms,
            checkpoint=self.checkpoint, image_age_ms=image_age_ms, refusal=self.refusal, origin=self.origin)


def find_release(model: str, cell: Cell) -> tuple[Release, Bundle | ModelConfig]:
    """What would be loaded, found, verified and trusted; its weights are not loaded yet.

    Returns:
        What a cell remembers of it, and what ``load_policy`` takes.

    Raises:
        UserError: It does not exist, is corrupt, or is not signed by whom the cell trusts.
    """
    path = Path(model).expanduser()
    name = str(path.resolve()) if path.is_dir() else model  # `latest` may point elsewhere when it is gone back to
    found, trust = find_policy(name), TrustedKeys(cell.trust, cell.path)
    signer = None
    if isinstance(found, Bundle):
        signer = trust.signer(found)
    else:
        trust.refuse_unsigned(name)
    return Release(name, weights_digest(found), signer or '', policy_digest(found)), found


class Decider:
    """Model, prompt and planner of one cell.

    Args:
        settings: What decides, and how.
        admit: Called with what is about to be loaded; raises UserError where it must not decide.

    Raises:
        UserError: Cell, model or checkpoint are missing or unusable, or the cell does not trust them.
    """

    def __init__(self, settings: DeciderSettings, admit: Callable[[Release], None] = lambda release: None) -> None:
        torch.set_num_threads(settings.threads)
        self.cell = load_cell(settings.cell)
        self._settings = settings
        language = SkillLanguage(self.cell.grid)
        self.release, found = find_release(settings.model, self.cell)
        admit(self.release)
        self.checkpoint = Path(self.release.model).name
        self._policy = load_policy(found, language=language, camera=self.cell.camera,
                                   trust=TrustedKeys(self.cell.trust, self.cell.path))
        self._agent = Agent(self.cell, self._policy.prompt, language)
        self._prompt_sha256 = self._policy.prompt.digest()
        self._decisions = 0

    def decide(self, observation: Observation, previous: str = '') -> Decided:
        """Think about an observation and plan what was decided.

        Args:
            observation: What the cell shows.
            previous: ``memory`` of the decision before in this episode.

        Raises:
            UserError: The observation is unusable.
        """
        started = time.monotonic()
        inputs = self._agent.policy_input(observation, previous)
        self._decisions += 1
        origin = Origin(
            observation.stamp_ns, self.cell.gripper_state(observation.joint_names, observation.joint_positions),
            previous, self._settings.temperature, (self._settings.seed << 32) + self._decisions, self._settings.threads,
            self._prompt_sha256, self.release.digest)
        decision = decide_alone(self._policy, inputs, origin.temperature, origin.seed)
        trajectory, refusal = None, ''
        if not decision.legal:
            refusal = 'the output holds no legal action'
        else:
            try:
                trajectory = self._agent.plan(decision.action, observation)
            except (ActionError, MotionError) as error:
                refusal = str(error)
        return Decided(observation.task, decision, trajectory, refusal, (time.monotonic() - started) * 1e3,
                       self.checkpoint, origin)


def decide_alone(policy: Policy, inputs: PolicyInput, temperature: float, seed: int) -> Decision:
    """A decision in a batch of its own, as the agent makes it and a replay repeats it.

    Args:
        policy: What decides.
        inputs: Image and prompt.
        temperature: 0 takes the likeliest output; log-probabilities are then those at temperature 1.
        seed: Of the sampling.
    """
    greedy = temperature == 0.0
    return policy.decide([inputs], temperature=1.0 if greedy else temperature, greedy=greedy, seeds=[seed])[0]
