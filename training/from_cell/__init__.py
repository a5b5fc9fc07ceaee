"""What operators and inspection said at a real cell, from its audit log: as demonstrations, and to learn from."""
