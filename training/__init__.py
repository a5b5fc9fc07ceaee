"""Demonstrations, supervised and reinforcement learning, evaluation, and the command line ``vlm-agent``."""
