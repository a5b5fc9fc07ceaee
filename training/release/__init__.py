"""Checkpoints on their way to a cell: keys, bundles, and what their form costs."""
