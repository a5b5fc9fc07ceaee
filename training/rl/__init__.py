"""Reinforcement learning: episodes, rollouts, algorithms, the learner, and a run with its checkpoints."""
