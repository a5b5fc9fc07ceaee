"""What a run that learns from a cell's log is made of, beyond the keys of every training run."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_agent_ros.config import bounded

from ..config import TrainConfig


@dataclass(frozen=True)
class CellTrainConfig(TrainConfig):
    """A training file for ``--from-cell``; keys of worlds that are played in mean nothing without ``--world``."""

    cell: str = bounded('', help='cell file of the cell that was logged; empty = as the log says')
    approved_weight: float = bounded(0.1, low=0.0, high=100.0, help='weight of an approved decision of a successful '
                                     'episode, against 1 of a correction; 0 = do not imitate them')
    outcome_weight: float = bounded(1.0, low=0.0, high=100.0, help='factor of the advantages from logged outcomes and '
                                    'rejections; 0 = learn from corrections and approvals only')
    rejected_reward: float = bounded(-1.0, low=-1000.0, high=1000.0, help='reward of a decision that the operator '
                                     'rejected')
    logprob_tolerance: float = bounded(0.05, low=0.0, high=10.0, help='decisions whose recomputed log-probability is '
                                       'farther from the logged one are not reinforced, nats')
    held_out: float = bounded(0.1, low=0.0, high=0.9, help='newest share of the corrections that is only measured on')
