"""The games keep Gymnasium's contract, can be won from every deal, and are rewarded for that alone."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sim_worlds.games  # noqa: F401 - registers them
from sim_worlds.games.number_line import HORIZON, NumberLine
from sim_worlds.games.two_cards import DEALS, TwoCards

IDS = ('vlm_agent_ros/NumberLine-v0', 'vlm_agent_ros/TwoCards-v0')
GAMES = (NumberLine, TwoCards)


@pytest.mark.parametrize('env_id', IDS)
def test_environment_passes_gymnasiums_checker(env_id):
    env = gymnasium.make(env_id, render_mode='rgb_array')
    check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize('game', GAMES)
def test_the_demonstrated_actions_win_every_instance(game):
    env, starts = game(), set()
    for seed in range(400):
        env.reset(seed=seed)
        starts.add((env.number, env.target) if game is NumberLine else env.cards)
        done, total = False, 0.0
        while not done:
            action = env.actions.index(env.demonstrate().action)
            _, reward, terminated, truncated, info = env.step(action)
            done, total = terminated or truncated, total + reward
        assert terminated and info['success'] and total == 1.0
    assert len(starts) == (30 if game is NumberLine else len(DEALS))


@pytest.mark.parametrize(('cards', 'begun', 'tokens', 'success'), [
    ((3, 4), '', '3 * 4 =', True),
    ((3, 4), '4', '* 3 =', True),
    ((3, 4), '4 *', '3 =', True),
    ((2, 10), '10 + 2', '=', True),
    ((6, 6), '6', '+ 6 =', True),
    ((3, 4), '3 +', '=', False),  # nothing that can be written is worth 12 any more
    ((3, 4), '4 + 3', '=', False),
])
def test_the_expert_of_the_cards_goes_on_with_what_another_has_begun_or_ends_it(cards, begun, tokens, success):
    env = TwoCards()
    env.reset(seed=0)
    env.cards = cards
    for token in begun.split():
        env.step(env.actions.index(token))
    for token in tokens.split():
        assert env.demonstrate().action == token
        terminated, _, info = env.step(env.actions.index(token))[2:]
    assert terminated and info['success'] == success


@pytest.mark.parametrize('highest', [1, 5, HORIZON])
def test_a_longer_line_can_be_walked_within_the_horizon(highest):
    env = NumberLine(highest)
    for seed in range(100):
        env.reset(seed=seed)
        while not (ended := env.step(env.actions.index(env.demonstrate().action)))[2]:
            assert not ended[3]
    with pytest.raises(ValueError, match='highest'):
        NumberLine(HORIZON + 1)


@pytest.mark.parametrize('game', GAMES)
def test_the_image_shows_what_has_to_be_known(game):
    """Different numbers, or cards, never look the same, and the same seed looks the same."""
    env, images = game(), {}
    for seed in range(300):
        observation = env.reset(seed=seed)[0]
        image = observation if game is NumberLine else observation['image']
        state = (env.number, env.target) if game is NumberLine else env.cards
        assert images.setdefault(image.tobytes(), state) == state
        again = env.reset(seed=seed)[0]
        assert np.array_equal(image, again if game is NumberLine else again['image'])
    assert len(images) > 100


def test_a_step_away_or_against_the_end_costs_and_a_step_towards_the_target_does_not():
    env = NumberLine()
    env.reset(seed=0)
    env.number, env.target = 0, 3
    rewards = [env.step(action)[1] for action in (1, 0, 1, 0, 0, 0)]
    assert rewards == [-1.0, 0.0, -1.0, 0.0, 0.0, 1.0]


def test_the_number_line_is_truncated_after_ten_steps():
    env = NumberLine()
    env.reset(seed=0)
    env.number, env.target = 0, 3
    ends = [env.step(1)[2:4] for _ in range(HORIZON)]
    assert ends == [(False, False)] * (HORIZON - 1) + [(False, True)]


@pytest.mark.parametrize(('cards', 'tokens', 'formula', 'reward', 'ends'), [
    ((3, 4), '3 * 4 =', '3 * 4', 1.0, (True, False)),
    ((3, 4), '4 * 3 =', '4 * 3', 1.0, (True, False)),
    ((3, 4), '3 + 4 =', '3 + 4', 0.0, (True, False)),
    ((6, 6), '6 + 6 =', '6 + 6', 1.0, (True, False)),
    ((3, 4), '3 * 3 4 =', '3 * 4', 1.0, (True, False)),  # a card can be used once
    ((3, 4), '+ 5 3 3 * 4 =', '3 * 4', 1.0, (True, False)),  # what cannot be written costs a step only
    ((3, 4), '3 * 4 + 3 * 4', '3 * 4', 0.0, (False, True)),
    ((3, 4), '3 =', '3', 0.0, (True, False)),
    ((3, 4), '=', '', 0.0, (True, False)),
])
def test_an_equation_of_both_cards_that_is_worth_twelve_is_rewarded_at_its_end(cards, tokens, formula, reward, ends):
    env = TwoCards()
    env.reset(seed=0)
    env.cards = cards
    rewards = []
    for token in tokens.split():
        observation, earned, terminated, truncated, info = env.step(env.actions.index(token))
        rewards.append(earned)
    assert rewards == [0.0] * (len(rewards) - 1) + [reward]
    assert observation['text'] == formula and (terminated, truncated) == ends and info['success'] == (reward == 1.0)
