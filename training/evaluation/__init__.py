"""How good a policy is: held-out episodes, paired comparisons, and ablations over seeds."""
