"""Pilots: two checkpoints on one line, in random order by a plan made beforehand, and the page that decides."""
