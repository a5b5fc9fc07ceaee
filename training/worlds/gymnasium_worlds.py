"""Any Gymnasium environment with an image, perhaps a text, and a Discrete list of actions as worlds of the trainer."""

from __future__ import annotations

import importlib
import math
import sys
import traceback
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from vlm_agent_ros.cot import CotReport
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.output import format_output
from vlm_agent_ros.types import EpisodeRequest, Outcome

from .pool import Answer


@dataclass(frozen=True)
class GymnasiumObservation:
    """What a Gymnasium environment shows.

    Attributes:
        image: (height, width, 3) uint8, rgb8.
        task: The text of the step: ``info['prompt']``, or else the observation's ``text``, or else nothing.
        admissible: Indices, ascending, of the actions that are admissible now; None = all.
    """

    image: np.ndarray
    task: str
    admissible: tuple[int, ...] | None


_RAISED = (Exception, SystemExit)
"""What the user's code may raise; with sys.exit() a run would end without a word and without a checkpoint."""

_MAX_REWARD = 1e18  # the square of an error of values must stay a number in float32


def make_environment(env_id: str, module: str = '') -> gymnasium.Env[Any, Any]:
    """An environment by its id.

    Args:
        env_id: As it is registered.
        module: Registers it when it is imported; the current folder counts too.

    Raises:
        UserError: The module cannot be imported, the id is unknown, or the environment cannot be made.
    """
    if module:
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            importlib.import_module(module)
        except _RAISED as error:  # a module may raise what it likes
            raise UserError(f'module {module!r} cannot be imported ({_described(error)}): correct import, or run from '
                            'the folder that holds it') from error
    try:
        return gymnasium.make(env_id, disable_env_checker=True)
    except gymnasium.error.Error as error:
        raise UserError(f'environment {env_id!r} cannot be made ({error}): correct env_id, or name the module that '
                        'registers it with import') from error
    except _RAISED as error:
        raise UserError(f'environment {env_id!r} cannot be made ({_described(error)}): correct it') from error


class GymnasiumWorlds:
    """Environments in this process, stepped one after the other.

    A turn succeeds where ``info['success']`` or ``info['is_success']`` says so. Where the environment says neither, an
    episode succeeds that terminates with a positive return.

    Args:
        count: Number of environments.
        env_id: As it is registered.
        module: Registers it when it is imported; the current folder counts too.
        actions: Text of each action, in the order of the action space.

    Raises:
        UserError: Module or id are not found, or observation or action do not fit.
    """

    transport = 'in_process'

    def __init__(self, count: int, env_id: str, module: str, actions: Sequence[str]) -> None:
        self.size = count
        self._worlds = [_World(make_environment(env_id, module), actions, env_id) for _ in range(count)]
        self._pending: dict[int, EpisodeRequest | int] = {}

    def reset(self, requests: dict[int, EpisodeRequest]) -> None:
        """See WorldPool."""
        self._pending.update(requests)

    def execute(self, commands: dict[int, int]) -> None:
        """See WorldPool; each command is the index of an action."""
        self._pending.update(commands)

    def collect(self, indices: Sequence[int]) -> dict[int, Answer]:
        """See WorldPool; the work is done here."""
        return {index: self._answer(index) for index in indices}

    def _answer(self, index: int) -> Answer:
        pending, world = self._pending.pop(index), self._worlds[index]
        return world.reset(pending.seed) if isinstance(pending, EpisodeRequest) else world.step(pending)

    def demonstrate(self, index: int) -> tuple[str, str]:
        """Thought and action of the environment's own expert, before the next step.

        Raises:
            UserError: It has none: neither the environment nor a wrapper has a method ``demonstrate()`` that returns
                two texts, a thought (which may be empty) and an action that is admissible now.
        """
        return self._worlds[index].demonstrate()

    def report(self, index: int, cot: CotReport) -> None:
        """Nobody listens within one process."""

    def close(self) -> None:
        """See WorldPool; what an environment raises in it is only told: there is a result, or a reason why not."""
        faults = []
        for world in self._worlds:
            try:
                world.close()
            except UserError as fault:
                faults.append(fault)
        if faults:
            print(f'warning: {faults[0]}', file=sys.stderr, flush=True)


class _World:
    """One environment and where its episode stands."""

    def __init__(self, environment: gymnasium.Env[Any, Any], actions: Sequence[str], name: str) -> None:
        self.environment, self._actions, self._name = environment, actions, name
        self._shape = _image_space(environment.observation_space, name).shape
        self._first = _action_space(environment.action_space, actions, name).start
        self._episode, self._seed, self._turn, self._return = -1, 0, 0, 0.0
        self._admitted: tuple[int, ...] | None = None

    def reset(self, seed: int) -> Answer:
        self._episode, self._seed, self._turn, self._return = self._episode + 1, seed, 0, 0.0
        try:
            answer: Any = self.environment.reset(seed=seed)
        except _RAISED as error:
            raise self._fault(f'raised {_described(error)} in reset()') from error
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise self._fault('returns no two values from reset(): observation, info')
        observation, info = answer
        self._require_dict(info)
        return self._scene(observation, info, ended=False), None

    def step(self, action: int) -> Answer:
        self._turn += 1
        try:
            answer: Any = self.environment.step(int(self._first) + action)
        except _RAISED as error:
            raise self._fault(f'raised {_described(error)} in step()') from error
        if not isinstance(answer, tuple) or len(answer) != 5:
            raise self._fault('returns no five values from step(): observation, reward, terminated, truncated, info')
        observation, given, terminated, truncated, info = answer
        try:
            reward = float(given)
        except (TypeError, ValueError) as error:
            raise self._fault(f'gave the reward {given!r}, which is no number') from error
        if not math.isfinite(reward):
            raise self._fault(f'gave the reward {reward}')
        if abs(reward) > _MAX_REWARD:
            raise self._fault(f'gave the reward {reward}, which is too large to be learned from')
        self._return += reward
        self._require_dict(info)
        ended, cut = self._flag('terminated', terminated), self._flag('truncated', truncated)
        success = self._flag('success', info.get('success', info.get('is_success', ended and self._return > 0)))
        outcome = Outcome(reward, ended, cut, success, self._episode, self._turn, self._seed)
        return self._scene(observation, info, ended=outcome.terminated or outcome.truncated), outcome

    def close(self) -> None:
        try:
            self.environment.close()
        except _RAISED as error:
            raise self._fault(f'raised {_described(error)} in close()') from error

    def demonstrate(self) -> tuple[str, str]:
        try:
            expert = self.environment.get_wrapper_attr('demonstrate')
        except AttributeError as error:
            raise UserError(f'environment {self._name} has no expert to learn from: give it, or a wrapper around it, a '
                            'method demonstrate() that returns a thought and an action, both as text') from error
        try:
            thought, action = expert()
            format_output(thought, action)
        except _RAISED as error:
            raise self._fault(f'raised {_described(error)} in demonstrate(), which has to return a thought and an '
                              'action, both as text') from error
        admitted = [a for i, a in enumerate(self._actions) if self._admitted is None or i in self._admitted]
        if action not in admitted:
            raise self._fault(f'demonstrates the action {action!r}, but admits {", ".join(admitted)}')
        return thought, action

    def _scene(self, observation: Any, info: dict[str, Any], ended: bool) -> GymnasiumObservation:
        image = observation.get('image') if isinstance(observation, dict) else observation
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != self._shape:
            found = f'{image.shape} {image.dtype}' if isinstance(image, np.ndarray) else type(image).__name__
            raise self._fault(f'observes an image of {found}, but its space says {self._shape} uint8')
        text = info.get('prompt', observation.get('text', '') if isinstance(observation, dict) else '')
        if not isinstance(text, str):
            raise self._fault(f'gives a prompt that is no text: {text!r}')
        self._admitted = self._admissible(info, ended)
        # A copy: an environment may draw the next image into the same memory.
        return GymnasiumObservation(image.copy(), text, self._admitted)

    def _admissible(self, info: dict[str, Any], ended: bool) -> tuple[int, ...] | None:
        """What ``info['actions']``, texts, or ``info['action_mask']``, one flag per action, leaves.

        Where the episode has ended that may be nothing; the value of a state in which it was cut off depends on it.
        """
        count = len(self._actions)
        if 'actions' in info:
            given = info['actions']
            if not isinstance(given, Collection) or isinstance(given, str):
                raise self._fault(f'admits {given!r}, which is no list of texts')
            unknown = [action for action in given if not isinstance(action, str) or action not in self._actions]
            if unknown:
                raise self._fault(f'admits {unknown[0]!r}, which is not among actions')
            found = tuple(i for i, action in enumerate(self._actions) if action in set(given))
        elif 'action_mask' in info:
            try:
                mask = np.asarray(info['action_mask'])
            except ValueError:  # of rows of different lengths
                raise self._fault(f'gives the action_mask {info["action_mask"]!r}, which is no list of flags') from None
            if mask.shape != (count,):
                raise self._fault(f'gives an action_mask of shape {mask.shape}, but it has {count} actions')
            if not np.isin(mask, (0, 1)).all():
                raise self._fault(f'gives the action_mask {mask.tolist()!r}, which is not of 0 and 1')
            found = tuple(np.flatnonzero(mask).tolist())
        else:
            return None
        if not found and ended:
            return None
        if not found:
            raise self._fault('admits no action though the episode has not ended')
        return None if len(found) == count else found

    def _require_dict(self, info: Any) -> None:
        if not isinstance(info, dict):
            raise self._fault(f'gives an info that is no dict: {info!r}')

    def _flag(self, name: str, value: Any) -> bool:
        try:
            if isinstance(value, str) or value != value:  # 'False', or NaN
                raise ValueError
            return bool(value)
        except Exception as error:  # an array of several values
            raise self._fault(f'says {name} by what is neither true nor false: {value!r}') from error

    def _fault(self, what: str) -> UserError:
        return UserError(f'environment {self._name} {what} (seed {self._seed}, turn {self._turn}): correct it')


def _image_space(space: gymnasium.Space[Any], name: str) -> spaces.Box:
    """The space of the images that an observation space holds; a UserError says what is needed instead."""
    if isinstance(space, spaces.Dict):
        if 'image' not in space.spaces:
            raise UserError(f'{name} observes a Dict of {", ".join(space.spaces)}, but an entry "image" is needed')
        text = space.spaces.get('text')
        if text is not None and not isinstance(text, spaces.Text):
            raise UserError(f'{name} observes a "text" that is {text}, but gymnasium.spaces.Text is needed')
        space = space.spaces['image']
    shape = space.shape or ()
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(shape) == 3 and shape[2] == 3:
        return space
    hint = ''
    if len(shape) == 2 or shape[-1:] == (1,):
        hint = '; it looks grayscale, repeat the channel in a wrapper'
    elif shape[:1] == (3,):
        hint = '; its channels come first, transpose the image in a wrapper'
    raise UserError(f'{name} observes {space}, but an RGB image is needed, by itself or as "image" in a Dict: a Box of '
                    f'shape (height, width, 3) and dtype uint8{hint}')


def _action_space(space: gymnasium.Space[Any], actions: Sequence[str], name: str) -> spaces.Discrete:
    """The action space, if there is a text for each action; a UserError says what is needed instead."""
    if not isinstance(space, spaces.Discrete):
        raise UserError(f'{name} takes actions from {space}, but a Discrete space is needed')
    if space.n != len(actions):
        raise UserError(f'{name} has {space.n} actions, but actions names {len(actions)}: give one text for each, in '
                        'their order')
    return space


def _described(error: BaseException) -> str:
    """An exception in one line, with the place where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = '' if place.filename.startswith('<') else f', {Path(place.filename).name}:{place.lineno}'
    return f'{type(error).__name__}: {" ".join(str(error).split())}{where}'
