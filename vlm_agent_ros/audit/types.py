"""What an audit log says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..types import Outcome, Trajectory


@dataclass(frozen=True)
class Logged:
    """A message as it was received.

    Attributes:
        topic: Resolved name.
        time_ns: Time of reception, of the system's clock.
        message: Its fields, by the names of its ROS type.
        stamp_ns: Header stamp, or the time of publication where it has none.
        name: Its name in the cell's interface, such as ``task``, however it was remapped; else the resolved one.
    """

    topic: str
    time_ns: int
    message: Any
    stamp_ns: int
    name: str


@dataclass(frozen=True)
class Correction:
    """What an operator would rather have had.

    Attributes:
        action: In the action language.
        thought: May be empty.
        operator: Who said so.
        demonstrated: The action is where the operator moved the tool, not what was typed.
    """

    action: str
    thought: str = ''
    operator: str = ''
    demonstrated: bool = False


@dataclass(frozen=True)
class LoggedDecision:
    """A decision, what it rested on and what became of it. What the log lacks is empty, 0 or None.

    Attributes:
        image: (height, width, 3) uint8, rgb8, bit for bit what was seen if the camera was logged raw; height 0 where
            the log lacks the image.
        image_stamp_ns: Its stamp, by the cell's clock.
        task: The instruction, verbatim.
        state: State text of the prompt.
        previous: What it said of the turn before.
        thought: The chain of thought.
        action: The action text.
        text: The verbatim output.
        logprob: Log-probability of the output, nats, to four decimals.
        value: The value head's estimate.
        temperature: Of the sampling; 0 is the likeliest output.
        seed: Of the sampling of this decision.
        threads: Threads of PyTorch.
        prompt_sha256: Digest of the prompt's template.
        checkpoint: Name of the checkpoint.
        checkpoint_sha256: Its digest (``policy_digest``); in older logs that of its weights.
        verdict: The gate's last word: ``forwarded``, ``refused``, ``shadow``, …
        rule: The safety rule that was hit.
        mode: The gate's mode.
        corrections: What operators would have had instead, in the order in which they said so.
        outcome: What the motion led to, where somebody knows.
        time_ns: When it was received, by the system's clock.
        task_stamp_ns: When its instruction was given, which tells two of the same text apart.
        proposal: The motion that was proposed.
        commands: What the gate forwarded of it, one part per controller.
    """

    image: np.ndarray
    image_stamp_ns: int
    task: str
    state: str
    previous: str
    thought: str
    action: str
    text: str
    logprob: float
    value: float
    temperature: float
    seed: int
    threads: int
    prompt_sha256: str
    checkpoint: str
    checkpoint_sha256: str
    verdict: str
    rule: str
    mode: str
    corrections: tuple[Correction, ...]
    outcome: Outcome | None
    time_ns: int
    task_stamp_ns: int = 0
    proposal: Trajectory | None = None
    commands: tuple[Trajectory, ...] = ()
