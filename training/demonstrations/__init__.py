"""Recorded decisions: their format on disk, how they are recorded from an expert, and how they are read."""
