"""Rounds are interleaved, and a ratio compares what was measured in the same round."""

import time

import torch  # noqa: F401 - only where it is imported a GPU may be at work

from training.bench.timing import interleaved, ratio


def test_every_round_runs_every_contender_once_and_none_keeps_its_place():
    order = []
    seconds = interleaved({name: lambda name=name: order.append(name) for name in 'abc'}, repeats=3, warm_up=1)
    rounds = [order[start:start + 3] for start in range(0, 12, 3)]
    assert all(sorted(one) == ['a', 'b', 'c'] for one in rounds)
    assert len({one[0] for one in rounds[1:]}) == 3
    assert {name: len(values) for name, values in seconds.items()} == {'a': 3, 'b': 3, 'c': 3}


def test_a_contender_is_billed_for_what_it_left_to_a_gpu(monkeypatch):
    order = []
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    monkeypatch.setattr('torch.cuda.synchronize', lambda: order.append('wait') or time.sleep(0.05))
    seconds = interleaved({name: lambda name=name: order.append(name) for name in 'ab'}, repeats=1, warm_up=0)
    assert order[1::2] == ['wait', 'wait'] and sorted(order[::2]) == ['a', 'b']
    assert all(value >= 0.05 for values in seconds.values() for value in values)


def test_a_slow_phase_of_the_machine_does_not_move_the_ratio():
    assert ratio([4.0, 40.0, 4.4], [2.0, 20.0, 2.0]) == 2.0
