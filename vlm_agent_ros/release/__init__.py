"""How checkpoints come to a cell and leave it again: keys, signed bundles, int8 weights, hot swap and rollback."""

INT8 = 'int8'
DTYPES = ('float32', 'bfloat16', INT8)
"""Types in which a merged model may go to a cell."""
