"""Returns and advantages of finished episodes: pure functions over numpy arrays."""

from __future__ import annotations

import numpy as np


def generalized_advantages(
    rewards: np.ndarray, values: np.ndarray, final_value: float, gamma: float, gae_lambda: float
) -> np.ndarray:
    """Generalised advantage estimates (Schulman et al. 2016, eq. 16), one per turn.

    ``A_t = δ_t + γλ A_{t+1}`` with ``δ_t = r_t + γ V_{t+1} - V_t``, where ``V_T`` is ``final_value``.

    Args:
        rewards: (turns,) rewards of the turns.
        values: (turns,) value estimates before the turns.
        final_value: Value after the last turn: 0 where the episode *terminated*, the estimate for the final
            observation where it was only *truncated* (Pardo et al. 2018), since there it would have gone on.
        gamma: Discount of a turn, γ.
        gae_lambda: λ of the estimator; 1 gives Monte-Carlo returns minus values.

    Returns:
        (turns,) float64 advantages; the value targets are ``advantages + values``.
    """
    following = np.append(values[1:], final_value)
    deltas = rewards + gamma * following - values
    advantages = np.zeros(len(rewards))
    running = 0.0
    for turn in range(len(rewards) - 1, -1, -1):
        running = deltas[turn] + gamma * gae_lambda * running
        advantages[turn] = running
    return advantages


def token_advantages(values: np.ndarray, turn_return: float, gamma: float, gae_lambda: float) -> np.ndarray:
    """The second level of VAGEN's bi-level GAE: over the tokens of one turn, towards what the turn was worth.

    The turn's value target from the first level, ``A_turn + V_turn``, is the reward of its last token, after which
    nothing follows: ``A_i = δ_i + γλ A_{i+1}`` with ``δ_i = γ V_{i+1} - V_i``, and ``δ_J = turn_return - V_J``.

    Args:
        values: (tokens,) value estimates before each token of the turn.
        turn_return: The turn's value target.
        gamma: Discount of a token.
        gae_lambda: λ between tokens; with both at 1 each token has ``turn_return`` less the value before it.

    Returns:
        (tokens,) float64 advantages; the value targets are ``advantages + values``.
    """
    rewards = np.zeros(len(values))
    rewards[-1] = turn_return
    return generalized_advantages(rewards, np.asarray(values, dtype=np.float64), 0.0, gamma, gae_lambda)


def returns_to_go(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """(turns,) discounted returns ``G_t = r_t + γ G_{t+1}`` of an episode from each of its turns on."""
    returns = np.zeros(len(rewards))
    running = 0.0
    for turn in range(len(rewards) - 1, -1, -1):
        running = rewards[turn] + gamma * running
        returns[turn] = running
    return returns


def leave_one_out(returns: np.ndarray) -> np.ndarray:
    """Each return minus the mean of the *others* of its group (RLOO, Ahmadian et al. 2024, eq. 8).

    The baseline does not depend on the episode that it is subtracted from, so the policy gradient stays unbiased.

    Args:
        returns: (group,) returns of episodes that started from the same seed.

    Returns:
        (group,) advantages; zeros where nothing is left to compare with.
    """
    returns = np.asarray(returns, dtype=np.float64)
    if len(returns) < 2:
        return np.zeros(len(returns))
    return returns - (returns.sum() - returns) / (len(returns) - 1)


def normalise_group(returns: np.ndarray) -> np.ndarray:
    """Returns of a group with zero mean and unit (population) variance (GRPO, DeepSeekMath eq. 3).

    Args:
        returns: (group,) returns that started from the same state.

    Returns:
        (group,) float64; zeros where all are equal, as in a group of one.
    """
    returns = np.asarray(returns, dtype=np.float64)
    return (returns - returns.mean()) / (returns.std() + 1e-6)


def gains(advantages: np.ndarray, normalise: bool) -> np.ndarray:
    """How much more than expected each decision of an update earned; in units of their spread if ``normalise``.

    Expected is what the value head says, or what decisions earned on average where that is more: to a head that does
    not reach the returns, because rewards are large, every decision would be a gain.
    """
    over = advantages - max(float(advantages.mean()), 0.0)
    return over / (advantages.std() + 1e-8) if normalise else over


def standardise(advantages: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance over an update's decisions."""
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
