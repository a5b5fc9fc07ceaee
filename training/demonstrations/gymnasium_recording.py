"""The expert of a Gymnasium environment, recorded: its decisions as rows of a dataset."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields

from vlm_agent_ros import __version__
from vlm_agent_ros.config import key_of
from vlm_agent_ros.types import EpisodeRequest, Outcome

from ..config import EnvironmentConfig
from ..worlds.gymnasium_environment import GymnasiumEnvironment
from ..worlds.gymnasium_worlds import GymnasiumWorlds
from .dataset_schema import DatasetInfo, DemonstrationRow, EpisodeOutcome


@dataclass(frozen=True)
class GymnasiumRecording:
    """See Recording.

    Attributes:
        episodes: Number of episodes that are played to the end.
        seed: First episode seed.
        environment: Which; it or one of its wrappers has a method ``demonstrate``, see ``GymnasiumWorlds``.
        scenes: Number of episodes of which only the first decision is recorded: where later prompts tell what the
            first image alone shows, they teach to read images.
    """

    episodes: int
    seed: int
    environment: EnvironmentConfig
    scenes: int = 0

    @property
    def total(self) -> int:
        """See Recording."""
        return self.scenes + self.episodes

    def info(self) -> DatasetInfo:
        """See Recording."""
        environment = GymnasiumEnvironment(self.environment)
        pool = environment.open(1)
        pool.reset({0: EpisodeRequest(self.seed, self.environment.env_id)})
        pool.collect([0])
        pool.demonstrate(0)
        pool.close()
        settings = {'made by': "vlm-agent record, the environment's own expert", 'version': __version__,
                    'episodes': self.episodes, 'scenes': self.scenes, 'seed': self.seed,
                    **{key_of(field): getattr(self.environment, field.name) for field in fields(self.environment)},
                    'prompt_sha256': environment.prompt.digest()}
        return DatasetInfo(recording=json.loads(json.dumps(settings)), template=environment.prompt.template)

    def rows(self, first: int, last: int) -> Iterator[DemonstrationRow]:
        """See Recording."""
        environment = GymnasiumEnvironment(self.environment)
        pool = environment.open(1)
        try:
            for index in range(first, last):
                yield from self._episode(index, environment, pool, whole=index >= self.scenes)
        finally:
            pool.close()

    def _episode(self, index: int, environment: GymnasiumEnvironment, pool: GymnasiumWorlds, *, whole: bool
                 ) -> list[DemonstrationRow]:
        commander = environment.commanders(environment.prompt, 'auto')('')
        request = EpisodeRequest(self.seed + index, self.environment.env_id)
        pool.reset({0: request})
        observation, outcome = pool.collect([0])[0]
        rows: list[DemonstrationRow] = []
        outcomes: list[Outcome] = []
        memory = ''
        while outcome is None or not (outcome.terminated or outcome.truncated):
            seen, (thought, action) = commander.observe(observation, memory), pool.demonstrate(0)
            memory = thought or action  # as of a Decision
            row = DemonstrationRow(seen.image, seen.prompt, thought, action, index, action, request.task,
                                   observation.task, world='gymnasium', seed=request.seed, turn=len(rows) + 1)
            if not whole:
                return [dataclasses.replace(row, executed=None)]
            pool.execute({0: environment.language.parse(action).index})
            observation, outcome = pool.collect([0])[0]
            assert outcome is not None
            rows.append(dataclasses.replace(row, outcome=outcome))
            outcomes.append(outcome)
        end = EpisodeOutcome(outcome.success, sum(o.reward for o in outcomes), len(rows))
        return [dataclasses.replace(row, episode_outcome=end) for row in rows]
