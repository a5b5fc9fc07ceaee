"""The policy: prompt, constrained decoding, exact log-probabilities and value of a vision-language model."""
