"""Streams of random numbers that never meet."""

import argparse

import numpy as np

from training.demonstrations.cell_recording import CellRecording
from training.demonstrations.record import add_arguments
from training.pilot.plan import Plan
from training.seeds import (
    DEMONSTRATION_START,
    EVALUATION_START,
    TRAINING_START,
    evaluation_seeds,
    keyed_seed,
    training_seed,
)


def test_training_seeds_are_disjoint_from_held_out_and_demonstration_seeds():
    training = {training_seed(run, group, index) for run in (0, 1, 2**62) for group in range(8) for index in range(99)}
    assert min(training) >= TRAINING_START > DEMONSTRATION_START > max(evaluation_seeds(10_000)) > EVALUATION_START


def test_pilots_play_neither_what_checkpoints_are_evaluated_on_nor_what_they_learned_from():
    plans = [Plan('a', 'b', ('place',), seed=seed) for seed in (0, 1, 624_999, 625_000, 2**62)]
    seeds = [{plan.scene(number) for number in range(plan.max_episodes)} for plan in plans]
    assert min(map(min, seeds)) > max(evaluation_seeds(1_000_000)) and max(map(max, seeds)) < DEMONSTRATION_START
    assert seeds[0].isdisjoint(seeds[1]) and len(seeds[0]) == plans[0].max_episodes


def test_demonstrations_are_recorded_from_their_own_stream():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([])
    last = args.seed + CellRecording(args.episodes, args.seed).total
    assert DEMONSTRATION_START <= args.seed < last < TRAINING_START


def test_a_longer_evaluation_starts_with_the_seeds_of_a_shorter_one():
    assert evaluation_seeds(200)[:50] == evaluation_seeds(50)


def test_draws_depend_on_purpose_and_every_part_of_the_key():
    seeds = [keyed_seed('decision', 1, 2), keyed_seed('decision', 2, 1), keyed_seed('decision', 1, 2, 0),
             keyed_seed('episode', 1, 2)]
    assert len(set(seeds)) == 4
    assert keyed_seed('decision', 1, 2) == seeds[0]
    assert all(0 <= seed < 2**63 for seed in seeds)
    np.random.default_rng(seeds[0])
