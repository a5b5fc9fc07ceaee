"""How checkpoints come to a cell and leave it again: keys, signed bundles, int8 weights, hot swap and rollback."""
