"""The chain of thought as an operator reads it: one line for the action, numbered lines for the thought."""

from __future__ import annotations

import hashlib
import html
import textwrap
from dataclasses import dataclass, fields

LINE_LENGTH = 120
MAX_LINES = 24


@dataclass(frozen=True)
class Origin:
    """What a decision can be repeated from, to the bit on the same machine.

    Attributes:
        image_stamp_ns: Stamp of the image that it rests on.
        state: State text of the prompt, such as ``open``.
        previous: What it said of the turn before, where the prompt tells it; empty at the first turn.
        temperature: Of the sampling; 0 is the likeliest output.
        seed: Of the sampling of this very decision.
        threads: Threads of PyTorch, which rounding depends on.
        prompt_sha256: Digest of the prompt's template.
        checkpoint_sha256: Digest of all that decided: weights, prompt, decoding.
    """

    image_stamp_ns: int
    state: str
    previous: str
    temperature: float
    seed: int
    threads: int
    prompt_sha256: str
    checkpoint_sha256: str

    def values(self) -> dict[str, str]:
        """Key-values of the diagnostic status."""
        return {field.name: escape(str(getattr(self, field.name))) for field in fields(self)}


@dataclass(frozen=True)
class CotReport:
    """One decision, for ``/diagnostics`` and ``~/chain_of_thought``.

    Attributes:
        task: The instruction, untrusted text.
        thought: The thought of the output.
        action: The action of the output; empty where the output holds none.
        text: The full, verbatim output.
        logprob: Log-probability of the output under the sampling distribution, nats.
        value: Value head's estimate of the return from here.
        latency_ms: From observation to decision, ms.
        checkpoint: Name of the checkpoint that decided.
        image_age_ms: Age of the image when the decision was published, ms.
        refusal: Why the action is not carried out, in one sentence; empty if it is.
        origin: What it can be repeated from; None in a training run, which can itself be repeated.
    """

    task: str
    thought: str
    action: str
    text: str
    logprob: float
    value: float
    latency_ms: float
    checkpoint: str
    image_age_ms: float
    refusal: str = ''
    origin: Origin | None = None

    def message(self) -> str:
        """The action in one escaped line."""
        return escape(one_line(self.action)) or 'no legal action'

    def values(self) -> dict[str, str]:
        """Key-values of the diagnostic status, in display order; escaped, because rqt renders them as HTML."""
        lines = _wrap(self.thought)
        return {
            'task': escape(one_line(self.task)),
            **{f'thought.{i:02d}': escape(line) for i, line in enumerate(lines, start=1)},
            'action': self.message(),
            'logprob': f'{self.logprob:.4f}',
            'value': f'{self.value:.4f}',
            'latency_ms': f'{self.latency_ms:.1f}',
            'checkpoint': escape(one_line(self.checkpoint)),
            'image_age_ms': f'{self.image_age_ms:.1f}',
            **({'refusal': escape(one_line(self.refusal))} if self.refusal else {}),
            # The digest tells which text of ``~/chain_of_thought`` belongs to this status.
            **({**self.origin.values(), 'text_sha256': text_digest(self.text)} if self.origin else {}),
        }


def escape(text: str) -> str:
    """``<``, ``>`` and ``&`` as HTML entities: rqt_runtime_monitor would swallow ``<think>`` as a tag."""
    return html.escape(text, quote=False)


def unescape(text: str) -> str:
    """The text that ``escape`` was given."""
    return html.unescape(text)


def text_digest(text: str) -> str:
    """SHA-256 (hex) of an output."""
    return hashlib.sha256(text.encode()).hexdigest()


def one_line(text: str) -> str:
    """Printable characters only, on one line of at most LINE_LENGTH characters."""
    line = ' '.join(''.join(c if c.isprintable() else ' ' for c in text).split())
    return line if len(line) <= LINE_LENGTH else line[:LINE_LENGTH - 1] + '…'


def _wrap(text: str) -> list[str]:
    """Lines of at most LINE_LENGTH printable characters, at most MAX_LINES of them."""
    printable = (''.join(c if c.isprintable() else ' ' for c in line) for line in text.splitlines())
    lines = [part for line in printable for part in textwrap.wrap(line, LINE_LENGTH)]
    return lines if len(lines) <= MAX_LINES else [*lines[:MAX_LINES - 1], '… (cut; whole on ~/chain_of_thought)']
