"""Every choice of a training run, typed, with its range and one line of help; each is a YAML key and a flag."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vlm_agent_ros.config import bounded, find_config, key_of, load_yaml, parse
from vlm_agent_ros.errors import UserError


@dataclass(frozen=True)
class LearningConfig:
    """The loss and its optimisation (RL4VLM, arXiv 2405.10292, and the switches that go beyond it)."""

    thought_weight: float = bounded(0.3, low=0.0, high=1.0, help="λ: weight of the thought tokens' log-probability")
    ratio_level: str = bounded('decision', choices=('decision', 'token'),
                               help='one probability ratio per decision (the paper) or one per token')
    clip: float = bounded(0.1, low=0.001, high=1.0, help='clip range of the probability ratio')
    max_ratio: float = bounded(10.0, low=1.0, help='ratios above it use only the clipped surrogate')
    policy_coef: float = bounded(1.0, low=0.0, high=100.0, help='weight of what the reward teaches; 0 = only the guard')
    value_coef: float = bounded(0.5, low=0.0, high=100.0, help='weight of the value loss')
    value_clip: float = bounded(0.1, low=0.0, help='clip range of the value around its old estimate; 0 = off')
    entropy_coef: float = bounded(0.0, low=0.0, high=1.0, help='weight of the entropy bonus (mean over tokens)')
    kl_coef: float = bounded(0.0, low=0.0, high=100.0, help='weight of the KL (token mean) to the policy before RL')
    guard_coef: float = bounded(0.0, low=0.0, high=100.0, help='weight of the thought guard: log-likelihood of the '
                                "true thought, as the simulator knows it, where the policy's was false; 0 = off")
    guard_scope: str = bounded('false', choices=('false', 'every', 'earned'), help='thoughts that the guard teaches: '
                               'false ones; or every one, with the action that it comes to: also away from true ones '
                               'that led nowhere, and to keep the others; or, where nobody knows what is true, what '
                               'the policy itself has written that earned more than expected')
    guard_anneal: bool = bounded(False, help='let that weight fall linearly to 0 over the budget')
    guard_replay: float = bounded(0.0, low=0.0, high=100.0, help='how many of all corrections of the guard are learned '
                                  'from again after every update, per decision of it; 0 = none')
    guard_memory: int = bounded(4096, low=1, high=2**20, help='newest corrections that are kept for that, in memory '
                                'and in every checkpoint (50 kB each with images of 128 x 128)')
    target_kl: float = bounded(0.0, low=0.0, help='stop an update once the KL to its start (per decision) exceeds it; '
                               '0 = off')
    min_advantage: float = bounded(0.0, low=0.0, high=10.0, help='decisions whose advantage is smaller in size are not '
                                   'learned from, because they would hardly move the policy; 0 = none')
    epochs: int = bounded(4, low=1, high=100, help='passes over the decisions of an update')
    minibatch_size: int = bounded(128, low=1, help='decisions per optimiser step')
    micro_batch_size: int = bounded(32, low=1, help='decisions per forward pass; gradients are accumulated over these')
    vision_cache_mib: int = bounded(256, low=0, high=2**20, help='memory in which an update keeps what a vision tower '
                                    'that is not trained says of its images, from epoch to epoch; 0 = off')
    learning_rate: float = bounded(1e-4, low=0.0, high=1.0, help='step size of the adapter')
    value_learning_rate: float = bounded(1e-3, low=0.0, high=1.0, help='step size of the value head')
    lr_schedule: str = bounded('cosine', choices=('constant', 'linear', 'cosine'), help='decay of both step sizes')
    lr_final_fraction: float = bounded(0.1, low=0.0, high=1.0, help='share of the step sizes left at the end')
    adam_eps: float = bounded(1e-7, low=0.0, high=1.0, help='ε of Adam')
    max_grad_norm: float = bounded(1.0, low=0.0, help='adapter and value gradients are cut to this norm; 0 = off')
    value_warmup_updates: int = bounded(1, low=0, help='first updates that train the value head only')

    algorithm: str = bounded('ppo', choices=('ppo', 'turn_ppo', 'grpo', 'gigpo'), help="the paper's PPO; PPO with "
                             'credit to turns, then tokens; or without a critic, by groups of episodes (and of states)')
    cot: bool = bounded(True, help='write a thought before the action; off: only the action')
    clip_high: float = bounded(0.0, low=0.0, high=10.0, help='upper clip range of the ratio, where larger than clip '
                               'lets unlikely tokens grow faster; 0 = the same as clip')
    dynamic_sampling: float = bounded(0.0, low=0.0, high=100.0, help='drop groups in which all succeed or all fail, '
                                      'and play up to so many times decisions_per_update to replace them; 0 = off')
    token_gamma: float = bounded(1.0, low=0.0, high=1.0, help='discount of a token (turn_ppo)')
    token_gae_lambda: float = bounded(1.0, low=0.0, high=1.0, help='λ of GAE over the tokens of a turn (turn_ppo)')
    step_weight: float = bounded(1.0, low=0.0, high=100.0, help='ω: weight of the advantage over repeated states '
                                 'against that over episodes (gigpo)')
    anchor: str = bounded('observation', choices=('observation', 'prompt'),
                          help='states of a group that count as the same: by image and prompt, or by prompt '
                          '(gigpo, and baseline group)')
    collapse_alarm: float = bounded(0.5, low=0.0, high=1.0, help='warn when so large a share of thoughts is also '
                                    'written for another scene; 1 = never')


CELL_KEYS = ('task', 'world', 'own_world', 'split', 'transport', 'attach')
"""Keys that mean nothing in a Gymnasium environment."""


ILLEGAL_RULES = ('auto', 'lost_turn', 'first_match', 'random')
ILLEGAL_HELP = ('an illegal output costs the turn (auto in the cell), or the first legal action in its text counts, or '
                'a random one (auto in Gymnasium, there also without a match)')


def check_illegal_rule(rule: str, env: str) -> None:
    """Refuse a rule that an environment cannot follow.

    Raises:
        UserError: Naming those that it can.
    """
    if rule == ('random' if env == 'cell' else 'lost_turn'):
        reason = 'the cell has no list of actions to draw from' if env == 'cell' else (
            'a Gymnasium environment has no turn without an action')
        raise UserError(f'illegal_rule is {rule}, but {reason}: set it to auto or first_match')


@dataclass(frozen=True)
class EnvironmentConfig:
    """Which environment: the cell, or any Gymnasium environment with images and a list of actions."""

    env: str = bounded('cell', choices=('cell', 'gymnasium'), help='simulated robot cell, or a Gymnasium environment')
    env_id: str = bounded('', help='id of the Gymnasium environment')
    import_: str = bounded('', help='module that registers it, importable from here')
    actions: tuple[str, ...] = bounded((), help='texts of its Discrete actions, in their order')
    prompt: str = bounded('', help='text of the user message there; {task} stands for the text of the step, {actions} '
                          'for the admissible actions; empty = a general one')

    def __post_init__(self) -> None:
        if self.env == 'cell':
            given = [name for name, value in (('env_id', self.env_id), ('import', self.import_),
                                              ('actions', self.actions), ('prompt', self.prompt)) if value]
            if given:
                raise UserError(f'env is cell, which takes no {given[0]}: set env to gymnasium, or leave it out')
        elif not self.env_id:
            raise UserError('env is gymnasium, but env_id is missing: give the id under which it is registered')
        elif not self.actions:
            raise UserError('env is gymnasium, but actions is missing: give one text for each of its actions, in order')


@dataclass(frozen=True)
class TrainConfig(LearningConfig, EnvironmentConfig):
    """A training run: where, for how long, with which rollouts, and what is measured before and after."""

    run_name: str = bounded('', help='folder of the run within runs_dir; empty = task and start time')
    runs_dir: str = bounded('runs', help='folder of all runs')
    seed: int = bounded(0, low=0, high=2**62, help='seed of the run; held-out seeds do not depend on it')
    task: str = bounded('place', help='task that is trained and evaluated')
    world: str = bounded('shifted', help='world file that is trained in')
    own_world: str = bounded('panda_table', help='world file that the model was made in, for the own_cell figure; '
                             'empty = skip')
    model: str = bounded('tiny_vlm', help='model file, model directory or checkpoint to start from')
    transport: str = bounded('ros', choices=('ros', 'in-process'), help='how worlds are reached')
    attach: tuple[str, ...] = bounded((), help='namespaces of running worlds to attach to; none = start them')
    worlds: int = bounded(8, low=1, high=65536, help='worlds in lock step')
    workers: int = bounded(0, low=0, high=65536, help='rollout workers, processes that each hold a share of the worlds '
                           '(then in process, whatever transport says) and a copy of the policy; 0 = play in this one')
    ray: str = bounded('', help='Ray cluster of the workers: auto (the one that runs on this machine), host:port, '
                       'ray://host:port, or local (one that the run starts and ends itself; so does empty)')
    worker_gpus: float = bounded(0.0, low=0.0, high=64.0, help='GPUs, or the share of one, that each worker gets')
    max_staleness: int = bounded(0, low=0, high=64, help='updates that the learner may be ahead of the weights that '
                                 'workers play with, and rollouts that may wait for it; 0 = workers rest while it '
                                 'learns')
    max_importance: float = bounded(2.0, low=1.0, high=1000.0, help='importance weights of stale decisions are cut to '
                                    'it')
    half_batches: bool = bounded(True, help='one half of the worlds moves while the policy decides for the other')
    torch_threads: int = bounded(1, low=1, high=256, help='threads of PyTorch while the worlds move too')
    update_threads: int = bounded(2, low=1, high=256, help='threads of PyTorch in updates, when the worlds rest')

    decisions: int = bounded(8192, low=0, help='decisions after which training ends')
    max_wall_minutes: float = bounded(14.0, low=0.0, help='minutes after which training ends early; 0 = off')
    decisions_per_update: int = bounded(256, low=1, help='an update starts no new episode beyond so many decisions')
    group_size: int = bounded(1, low=1, high=256, help='worlds that get the same episode seeds')
    baseline: str = bounded('value', choices=('value', 'group'),
                            help='advantages from the value head (GAE) or the other episodes of the same seed (ppo)')
    gamma: float = bounded(0.9, low=0.0, high=1.0, help='discount of a turn')
    gae_lambda: float = bounded(0.95, low=0.0, high=1.0, help='λ of generalised advantage estimation')
    normalise_advantages: bool = bounded(True, help='zero mean and unit variance over an update (ppo, turn_ppo)')
    temperature: float = bounded(0.6, low=0.01, high=5.0, help='sampling temperature at the start')
    temperature_final: float = bounded(0.6, low=0.01, high=5.0, help='sampling temperature at the end; linear between')
    constrained: bool = bounded(True, help='decode under the grammar of the action language')
    illegal_rule: str = bounded('auto', choices=ILLEGAL_RULES, help=ILLEGAL_HELP)
    illegal_penalty: float = bounded(0.0, low=0.0, help='subtracted from the reward of an illegal output')

    eval_episodes: int = bounded(200, low=0, help='held-out episodes of each evaluation; 0 = skip them')
    eval_temperature: float = bounded(0.0, low=0.0, high=5.0, help='temperature of evaluations; 0 = greedy')
    eval_every: int = bounded(0, low=0, help='updates between evaluations during training; 0 = none')
    stop_at_success: float = bounded(0.0, low=0.0, high=1.0, help='success of an evaluation during training at which '
                                     'training ends; 0 = never')
    select: str = bounded('last', choices=('last', 'best'),
                          help='checkpoint that is evaluated at the end; best = by training success')
    best_window: int = bounded(5, low=1, help='updates over which training success is averaged to find the best')
    checkpoint_every: int = bounded(5, low=1, help='updates between checkpoints')
    keep_checkpoints: int = bounded(3, low=1, help='newest checkpoints that are kept, besides the best')

    def __post_init__(self) -> None:
        EnvironmentConfig.__post_init__(self)
        check_illegal_rule(self.illegal_rule, self.env)
        if self.worlds % self.group_size:
            raise UserError(f'worlds is {self.worlds}, but must be a multiple of group_size ({self.group_size}): set '
                            f'worlds to {-(-self.worlds // self.group_size) * self.group_size}, or group_size to a '
                            'divisor of worlds')
        if self.baseline == 'group' and self.group_size < 2:
            raise UserError('baseline is group, but group_size is 1: set group_size to at least 2')
        if self.algorithm in ('grpo', 'gigpo') and self.group_size < 2:
            raise UserError(f'{self.algorithm} compares episodes of a group, but group_size is 1: set group_size to at '
                            'least 2')
        if self.dynamic_sampling and self.group_size < 2:
            raise UserError('dynamic_sampling drops groups, but group_size is 1: set group_size to at least 2')
        if not self.cot and not self.constrained:
            raise UserError('cot is off, which the grammar sees to, but constrained is off as well: set one of them')
        if self.attach and len(self.attach) != self.worlds:
            raise UserError(f'attach names {len(self.attach)} worlds, but worlds is {self.worlds}: make them equal')
        if self.attach and self.transport != 'ros':
            raise UserError('attach needs running ROS worlds: set transport to ros')
        if self.stop_at_success and not (self.eval_every and self.eval_episodes):
            raise UserError('stop_at_success needs evaluations during training: set eval_every and eval_episodes')
        self._check_workers()
        if any(part in ('..', '.') for part in Path(self.run_name).parts) or Path(self.run_name).is_absolute():
            raise UserError(f'run_name is {self.run_name!r}, but must name a folder within runs_dir')

    def _check_workers(self) -> None:
        if not self.workers:
            given = [name for name in ('ray', 'worker_gpus', 'max_staleness') if getattr(self, name)]
            if given:
                raise UserError(f'{given[0]} is {getattr(self, given[0])}, but workers is 0: set workers to at least 1')
            return
        if self.workers > self.groups:
            raise UserError(f'workers is {self.workers}, but there are {self.groups} groups of worlds to share: set '
                            f'workers to {self.groups} at most, or worlds to at least {self.workers * self.group_size}')
        if self.attach:
            raise UserError('attach names running worlds, but workers hold their own: leave one of them out')
        if self.max_staleness and self.dynamic_sampling:
            raise UserError('dynamic_sampling plays on until an update is full, which rollouts played ahead cannot '
                            'know: set max_staleness or dynamic_sampling to 0')

    # Derived, never set.
    @property
    def scene(self) -> tuple[str, str]:
        """Task and world of its episodes; in Gymnasium the environment's id stands for the task."""
        return (self.task, self.world) if self.env == 'cell' else (self.env_id, 'gymnasium')

    @property
    def groups(self) -> int:
        """Groups of worlds that share their episode seeds."""
        return self.worlds // self.group_size

    def progress(self, decisions: int) -> float:
        """Share of the budget of decisions that is used, 0 … 1; what every schedule follows."""
        return min(decisions / self.decisions, 1.0) if self.decisions else 1.0

    def temperature_at(self, decisions: int) -> float:
        """Sampling temperature of an update that starts after so many decisions."""
        return self.temperature + (self.temperature_final - self.temperature) * self.progress(decisions)


_READ_IF_ON = {'guard_scope': 'guard_coef', 'guard_anneal': 'guard_coef', 'guard_replay': 'guard_coef',
               'guard_memory': 'guard_replay', 'max_importance': 'max_staleness', 'worker_gpus': 'workers',
               'thought_weight': 'cot', 'collapse_alarm': 'cot'}
_READ_BY = {'token_gamma': ('turn_ppo',), 'token_gae_lambda': ('turn_ppo',), 'step_weight': ('gigpo',),
            'baseline': ('ppo',), 'gae_lambda': ('ppo', 'turn_ppo'), 'normalise_advantages': ('ppo', 'turn_ppo'),
            'gamma': ('ppo', 'turn_ppo', 'gigpo'), 'anchor': ('ppo', 'gigpo'),
            'ratio_level': ('ppo', 'grpo', 'gigpo')}


def unread(config: TrainConfig, given: Iterable[str]) -> list[str]:
    """What somebody has set and nothing reads, a sentence each.

    Args:
        config: The run.
        given: Names of the fields that were asked for; those that have their default are left out.
    """
    asked = [name for name in given if name in {**_READ_IF_ON, **_READ_BY}
             and getattr(config, name) != getattr(TrainConfig, name)]
    off = [f'{name} has no effect while {_READ_IF_ON[name]} is off' for name in asked
           if name in _READ_IF_ON and not getattr(config, _READ_IF_ON[name])]
    other = [f'{name} has no effect with algorithm {config.algorithm}: it is for {", ".join(_READ_BY[name])}'
             for name in asked if config.algorithm not in _READ_BY.get(name, (config.algorithm,))]
    return off + other


C = TypeVar('C', bound=TrainConfig)


def load_train_config(name: str, overrides: dict[str, Any], cls: type[C] = TrainConfig) -> C:  # type: ignore[assignment]
    """A training file with flags over it.

    Args:
        name: Shipped name or path of a YAML file in config/training.
        overrides: Values by field name, as YAML would give them.
        cls: What the file describes.

    Raises:
        UserError: A key is unknown, of the wrong type or out of range; the message names the file or the flag.
    """
    path = find_config('training', name)
    mapping = load_yaml(path)
    try:
        return merge(cls, mapping, overrides, 'command line')
    except UserError:
        merge(cls, {}, mapping, str(path))  # if it is the file's fault, the file has to be named
        raise


def merge(cls: type[C], base: dict[str, Any], overrides: dict[str, Any], source: str) -> C:
    """``base`` with ``overrides`` over it; messages name ``source``, because the base was checked before."""
    mapping = {**base, **overrides}
    try:
        config = parse(cls, mapping, source)
    except UserError as error:
        if str(error).startswith(source):
            raise
        raise UserError(f'{source}: {error}') from error
    useless = [key for key in CELL_KEYS if key in mapping]
    if config.env == 'gymnasium' and useless:
        raise UserError(f'{source}: env is gymnasium, which knows no {", ".join(useless)}: leave that out')
    if config.env == 'gymnasium' and config.guard_coef and config.guard_scope != 'earned':
        raise UserError(f'{source}: guard_coef is {config.guard_coef:g}, but the thought guard needs a simulator that '
                        'says what is true, as the cell does: set guard_coef to 0, or guard_scope to earned')
    return config


def as_mapping(config: TrainConfig) -> dict[str, Any]:
    """The configuration as YAML or JSON holds it; ``parse`` and ``merge`` read it back."""
    values = {key_of(field): getattr(config, field.name) for field in dataclasses.fields(config)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
            if config.env == 'cell' or key not in CELL_KEYS}
