"""Audit logs of a small cell, written by the audit's own writer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from PIL import Image as PillowImage
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, JointState
from std_msgs.msg import String

from vlm_agent_ros import topic_names
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.audit.entry_queue import Entry, Topic
from vlm_agent_ros.audit.settings import Audit
from vlm_agent_ros.audit.writer import AuditWriter
from vlm_agent_ros.checkpoint import load_policy, weights_digest
from vlm_agent_ros.config import find_config, load_yaml
from vlm_agent_ros.cot import CotReport, Origin
from vlm_agent_ros.nodes.messages import outcome_message, to_time
from vlm_agent_ros.policy.output import format_output
from vlm_agent_ros.policy.policy import Decision, Policy, PolicyInput
from vlm_agent_ros.types import Outcome

TASK, STATE, SIDE = 'pick what is lit', 'open', 32


@dataclass(frozen=True)
class Said:
    """A decision as the topics tell it."""

    image: np.ndarray
    thought: str = 'so pick 40 40'
    action: str = 'pick 40 40'
    task: str = TASK
    given_again: bool = False
    state: str = STATE
    logprob: float = -1.0
    value: float = 0.0
    temperature: float = 0.0
    verdict: str = ''
    rule: str = ''
    mode: str = 'approve'
    correction: dict[str, Any] | None = None
    outcome: Outcome | None = None
    prompt_sha256: str = ''
    checkpoint_sha256: str = ''
    states: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class SmallCell:
    """A cell with a camera of 32 x 32 pixels and a very small random policy that is trained as a whole."""

    cell: Path
    model: Path

    def policy(self) -> Policy:
        return load_policy(str(self.model), language=SkillLanguage(48))

    def digests(self) -> dict[str, str]:
        return {'prompt_sha256': self.policy().prompt.digest(), 'checkpoint_sha256': weights_digest(str(self.model))}


@pytest.fixture(scope='session')
def small_cell(brief_model: Path, tmp_path_factory: pytest.TempPathFactory) -> SmallCell:
    folder = tmp_path_factory.mktemp('cell')
    content = load_yaml(find_config('cells', 'panda_table'))
    content['camera'] = {**content['camera'], 'width': SIDE, 'height': SIDE}
    (folder / 'cell.yaml').write_text(yaml.safe_dump(content))
    model = {**yaml.safe_load(brief_model.read_text()), 'lora': None,
             'decoding': {'max_thought_chars': 40, 'max_new_tokens': 80}}
    (folder / 'model.yaml').write_text(yaml.safe_dump(model))
    return SmallCell(folder / 'cell.yaml', folder / 'model.yaml')


@pytest.fixture
def write_log(tmp_path: Path, small_cell: SmallCell) -> Callable[..., Path]:
    """Write decisions to a log and give its folder."""
    def write(decisions: Iterable[Said], name: str = 'log', cell: bool = True) -> Path:
        writer = AuditWriter(Audit(folder=str(tmp_path / name)), small_cell.cell.read_text() if cell else '')
        log = _Log(writer, small_cell.digests())
        for decision in decisions:
            log.add(decision)
        writer.close()
        return tmp_path / name

    return write


def lit(rng: np.random.Generator, right: bool) -> np.ndarray:
    """(32, 32, 3) uint8: an image with noise whose left or right half is the brighter one, more or less."""
    image = rng.integers(0, 40, (SIDE, SIDE, 3)) + rng.integers(20, 60)
    image[:, SIDE // 2 * right:SIDE // 2 * (1 + right)] += rng.integers(100, 150)
    return image.astype(np.uint8)


def decide(policy: Policy, images: Sequence[np.ndarray], seed: int = 0) -> list[Decision]:
    """Sampled outputs, in the tokens that their texts are encoded to: a random policy hardly ever samples these."""
    inputs = [seen(policy, image) for image in images]
    sampled = policy.decide(inputs, temperature=1.0, seeds=range(seed, seed + len(images)))
    written = [policy.written(decision.text) for decision in sampled]
    log_probs = policy.evaluate(inputs, written, 1.0).logprobs.detach().numpy()
    return [replace(d, token_logprobs=row[:len(d.token_ids)]) for d, row in zip(written, log_probs)]


def as_said(policy: Policy, image: np.ndarray, decision: Decision, **fields: Any) -> Said:
    """What the topics tell of a decision that a policy has made."""
    said = Said(image, decision.thought, decision.action, logprob=float(decision.token_logprobs.sum()),
                value=decision.value)
    return replace(said, **fields)


def seen(policy: Policy, image: np.ndarray) -> PolicyInput:
    return PolicyInput(image, policy.prompt.render(TASK, STATE, policy.language))


class _Log:
    """Puts what nodes would have published into a writer, a second per decision."""

    def __init__(self, writer: AuditWriter, digests: dict[str, str]) -> None:
        self._writer, self._digests = writer, digests
        self._time_ns, self._task = 1_000_000_000_000, ''

    def add(self, said: Said) -> None:
        self._time_ns += 1_000_000_000
        stamp_ns, text = self._time_ns, format_output(said.thought, said.action)
        if said.task != self._task or said.given_again:
            self._task = said.task
            self._put(topic_names.TASK, String(data=said.task))
        buffer = io.BytesIO()
        PillowImage.fromarray(said.image).save(buffer, format='PNG')
        image = CompressedImage(format='rgb8; png compressed bgr8', data=buffer.getvalue())
        image.header.stamp = to_time(stamp_ns)
        self._put(topic_names.COMPRESSED_IMAGE, image, stamp_ns)
        prompt, checkpoint = (getattr(said, key) or digest for key, digest in self._digests.items())
        origin = Origin(stamp_ns, said.state, '', said.temperature, 0, 1, prompt, checkpoint)
        report = CotReport(said.task, said.thought, said.action, text, said.logprob, said.value, 5.0, 'model', 1.0,
                           origin=origin)
        self._put(topic_names.CHAIN_OF_THOUGHT, String(data=text))
        self._status('agent_node: chain of thought', {**report.values(), 'cot_age_s': '0.000'})
        if said.verdict:
            self._status('gate_node: verdict', {'verdict': said.verdict, 'rule': said.rule, 'mode': said.mode,
                                                'image_stamp_ns': str(stamp_ns)})
        for i, positions in enumerate(said.states):
            joints = JointState(name=[*JOINTS], position=positions.tolist())
            joints.header.stamp = to_time(stamp_ns + 1 + i)
            self._put(topic_names.JOINT_STATES, joints, stamp_ns + 1 + i)
        if said.correction is not None:
            content = {'image_stamp_ns': stamp_ns, 'operator': 'Ada', **said.correction}
            self._put(topic_names.CORRECTION, String(data=json.dumps(content)))
        if said.outcome is not None:
            after_ns = stamp_ns + 500_000_000
            self._put(topic_names.OUTCOME, outcome_message(said.outcome, after_ns), after_ns)

    def _status(self, name: str, values: dict[str, str]) -> None:
        self._put(topic_names.DIAGNOSTICS, DiagnosticArray(status=[DiagnosticStatus(
            name=name, values=[KeyValue(key=key, value=value) for key, value in values.items()])]))

    def _put(self, name: str, message: Any, stamp_ns: int = 0) -> None:
        self._time_ns += 1000
        kind = type(message)
        topic = Topic('/' + name.strip('/~'), f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}', name)
        self._writer.put(Entry(topic, serialize_message(message), self._time_ns, stamp_ns or self._time_ns))


JOINTS = (*(f'panda_joint{i}' for i in range(1, 8)), 'panda_finger_joint1')
