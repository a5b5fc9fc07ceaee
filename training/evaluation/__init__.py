"""How good a policy is: held-out episodes, paired comparisons, and ablations over seeds."""

EXPERT = 'expert'
"""What stands for the scripted expert where a model is named."""
