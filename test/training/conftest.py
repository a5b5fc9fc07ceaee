"""A toy problem that the real training code runs on: two contexts, two actions, one of them right in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from training.config import TrainConfig
from training.worlds.commands import CellCommander
from training.worlds.pool import WorldError
from vlm_agent_ros.actions import DiscreteLanguage
from vlm_agent_ros.policy.policy import Decision, Evaluation, PolicyInput
from vlm_agent_ros.safety import Verdict
from vlm_agent_ros.types import EpisodeRequest, Observation, Outcome, Trajectory

ACTIONS = ('left', 'right')


@pytest.fixture(scope='session')
def brief_model(vlm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models file of a very small random VLM that writes short thoughts."""
    path = tmp_path_factory.mktemp('models') / 'model.yaml'
    path.write_text(yaml.safe_dump({
        'base': str(vlm_folder), 'lora': {'rank': 4},
        'prompt': {'template': 'task: {task}\ngripper: {state}\nbefore: {previous}'},
        'decoding': {'max_thought_chars': 20, 'max_new_tokens': 80}, 'value_width': 8}))
    return path


class ToyPolicy(torch.nn.Module):
    """Writes one thought token (0 or 1) and one action token (2 or 3), from a table of logits per context."""

    prompt = None

    def __init__(self) -> None:
        super().__init__()
        self.thoughts = torch.nn.Parameter(torch.zeros(2, 2))
        self.actions = torch.nn.Parameter(torch.zeros(2, 2))
        self.value_head = torch.nn.Parameter(torch.zeros(2))
        self.after_thought = torch.nn.Parameter(torch.zeros(2, 2))  # values per context and thought

    def adapter_parameters(self) -> list[torch.nn.Parameter]:
        return [self.thoughts, self.actions]

    def value_parameters(self) -> list[torch.nn.Parameter]:
        return [self.value_head, self.after_thought]

    def cached_vision(self, limit_bytes: int) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def reference(self) -> Iterator[None]:
        kept = [p.detach().clone() for p in self.adapter_parameters()]
        for parameter in self.adapter_parameters():
            parameter.data.zero_()
        yield
        for parameter, value in zip(self.adapter_parameters(), kept):
            parameter.data.copy_(value)

    def values(self, inputs: Sequence[PolicyInput]) -> np.ndarray:
        return self.value_head.detach()[_contexts(inputs)].numpy()

    @torch.no_grad()
    def decide(self, inputs: Sequence[PolicyInput], *, temperature: float, seeds: Sequence[int], greedy: bool = False
               ) -> list[Decision]:
        decisions = []
        for context, value, seed in zip(_contexts(inputs), self.values(inputs), seeds):
            draws = np.random.default_rng(seed).random(2)
            log_probs = self._log_probs(torch.tensor([context]), temperature)
            tokens = []
            for table, draw in zip(log_probs, draws):
                tokens.append(int(table[0].argmax()) if greedy else int(draw > table[0].exp()[0].item()))
            action = ACTIONS[tokens[1]]
            decisions.append(Decision(
                text=f'<b>{tokens[0]}</b> {action}', thought=f'<script>{tokens[0]}</script>', action=action, legal=True,
                token_ids=np.array([tokens[0], tokens[1] + 2]),
                token_logprobs=np.array([table[0, token] for table, token in zip(log_probs, tokens)], dtype=np.float32),
                thought_mask=np.array([True, False]), value=float(value)))
        return decisions

    def evaluate(self, inputs: Sequence[PolicyInput], decisions: Sequence[Decision],
                 temperature: float | Sequence[float], token_values: bool = False) -> Evaluation:
        contexts = _contexts(inputs)
        tokens = torch.tensor(np.array([d.token_ids for d in decisions])) - torch.tensor([0, 2])
        tables = self._log_probs(contexts, torch.as_tensor(temperature).reshape(-1, 1))
        rows = torch.arange(len(contexts))
        values = self.value_head[contexts]
        if token_values:
            values = torch.stack([values, self.after_thought[contexts, tokens[:, 0]]], dim=1)
        return Evaluation(
            logprobs=torch.stack([table[rows, tokens[:, i]] for i, table in enumerate(tables)], dim=1),
            mask=torch.ones(len(contexts), 2, dtype=torch.bool),
            thought_mask=torch.tensor([[True, False]]).repeat(len(contexts), 1),
            entropy=torch.stack([-(table.exp() * table).sum(1) for table in tables], dim=1),
            values=values)

    def _log_probs(self, contexts: torch.Tensor, temperature: float | torch.Tensor) -> list[torch.Tensor]:
        return [torch.log_softmax(table[contexts] / temperature, dim=1) for table in (self.thoughts, self.actions)]


def _contexts(inputs: Sequence[PolicyInput]) -> torch.Tensor:
    return torch.tensor([int(i.image[0, 0, 0] > 0) for i in inputs])


class ToyWorlds:
    """The right action is that of the context; an episode ends with it, or after two turns."""

    transport = 'in_process'

    def __init__(self, size: int, breaks_at: int | None = None) -> None:
        self.size = size
        self.breaks_at = breaks_at  # number of the answer at which its world breaks down
        self.breaks_always_at: int | None = None  # seed at which any world breaks down
        self.seeds: list[int] = []
        self.closed = False
        self._state: dict[int, tuple[EpisodeRequest, int]] = {}
        self._pending: dict[int, EpisodeRequest | Trajectory | None] = {}
        self._answers = 0

    def reset(self, requests: dict[int, EpisodeRequest]) -> None:
        self.seeds += [request.seed for request in requests.values()]
        self._pending.update(requests)

    def execute(self, commands: dict[int, Trajectory | None]) -> None:
        self._pending.update(commands)

    def collect(self, indices: Sequence[int]) -> dict[int, tuple[Observation, Outcome | None]]:
        for index in indices:
            self._answers += 1
            if self._answers == self.breaks_at or self._starts(index, self.breaks_always_at):
                self._pending.pop(index)
                raise WorldError(index, 'its process ended')
        return {index: self._answer(index) for index in indices}

    def _starts(self, index: int, seed: int | None) -> bool:
        pending = self._pending[index]
        return isinstance(pending, EpisodeRequest) and pending.seed == seed

    def _answer(self, index: int) -> tuple[Observation, Outcome | None]:
        pending = self._pending.pop(index)
        if isinstance(pending, EpisodeRequest):
            self._state[index] = pending, 0
            return self._observe(pending), None
        request, turns = self._state[index]
        self._state[index] = request, turns + 1
        success = pending is not None and pending.positions[0, 0] == request.seed % 2
        outcome = Outcome(reward=float(success), terminated=success, truncated=turns == 1 and not success,
                          success=success, episode=0, turn=turns + 1, seed=request.seed, kpi={'cost': 1.0})
        return self._observe(request), outcome

    def _observe(self, request: EpisodeRequest) -> Observation:
        image = np.full((4, 4, 3), 255 * (request.seed % 2), dtype=np.uint8)
        return Observation(image, ('joint',), np.zeros(1), 'find <the> side', 0)

    def report(self, index: int, cot: object) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class ToyAgent:
    language = DiscreteLanguage(ACTIONS)

    def policy_input(self, observation: Observation, previous: str = '') -> PolicyInput:
        return PolicyInput(observation.image, observation.task)

    def plan(self, action: str, observation: Observation) -> Trajectory:
        index = self.language.parse(action).index
        return Trajectory(('joint',), np.zeros(1, dtype=np.int64), np.full((1, 1), float(index)), np.zeros((1, 1)))

    def hold(self, observation: Observation) -> Trajectory:
        return Trajectory(('joint',), np.zeros(1, dtype=np.int64), np.full((1, 1), -1.0), np.zeros((1, 1)))


class NoRules:
    def judge(self, trajectory: Trajectory, measured: Observation) -> Verdict:
        return Verdict(trajectory)


@dataclass
class Toy:
    """Everything that the training code is run with."""

    policy: ToyPolicy
    worlds: ToyWorlds
    config: TrainConfig

    def commander_of(self, world: str) -> CellCommander:
        return CellCommander(ToyAgent(), NoRules())


@pytest.fixture
def make_toy():
    def make(worlds: int = 4, breaks_at: int | None = None, **overrides: object) -> Toy:
        torch.manual_seed(0)
        settings = {
            'worlds': worlds, 'own_world': '', 'temperature': 1.0, 'temperature_final': 1.0, 'learning_rate': 0.05,
            'value_learning_rate': 0.05, 'lr_schedule': 'constant', 'lr_final_fraction': 1.0, 'decisions': 64,
            'decisions_per_update': 32, 'minibatch_size': 16, 'eval_episodes': 20, 'max_wall_minutes': 0.0,
            'value_warmup_updates': 0, **overrides}
        return Toy(ToyPolicy(), ToyWorlds(worlds, breaks_at), TrainConfig(**settings))

    return make


@pytest.fixture(scope='session')
def flags(brief_model, tmp_path_factory):
    """A very small run: two updates of a random VLM in two worlds."""
    config = tmp_path_factory.mktemp('training') / 'training.yaml'  # the shipped one changes as it is tuned
    config.write_text(yaml.safe_dump({
        'transport': 'in-process', 'model': str(brief_model), 'world': 'panda_table', 'own_world': '', 'worlds': 2,
        'decisions_per_update': 4, 'decisions': 10, 'max_wall_minutes': 0, 'learning_rate': 0.01,
        'value_warmup_updates': 0, 'checkpoint_every': 100}))
    return ['train', '--config', str(config)]
