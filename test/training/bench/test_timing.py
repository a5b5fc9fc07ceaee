"""Rounds are interleaved, and a ratio compares what was measured in the same round."""

from training.bench.timing import interleaved, ratio


def test_every_round_runs_every_contender_once_and_none_keeps_its_place():
    order = []
    seconds = interleaved({name: lambda name=name: order.append(name) for name in 'abc'}, repeats=3, warm_up=1)
    rounds = [order[start:start + 3] for start in range(0, 12, 3)]
    assert all(sorted(one) == ['a', 'b', 'c'] for one in rounds)
    assert len({one[0] for one in rounds[1:]}) == 3
    assert {name: len(values) for name, values in seconds.items()} == {'a': 3, 'b': 3, 'c': 3}


def test_a_slow_phase_of_the_machine_does_not_move_the_ratio():
    assert ratio([4.0, 40.0, 4.4], [2.0, 20.0, 2.0]) == 2.0
