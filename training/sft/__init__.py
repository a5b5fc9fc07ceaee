"""Supervised fine-tuning: from demonstrations to a model, the small one that ships included."""
