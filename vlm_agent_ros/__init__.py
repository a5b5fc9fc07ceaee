"""A vision-language model as the decision maker of a robot cell.

This package is what runs at the cell: policy, action languages, motion, safety rules and the thin ROS 2 nodes.
It never imports a simulator or the training stack.
"""

import os

# Before PyTorch brings libgomp, which reads it once. Threads that have nothing to do spin before they sleep, by default
# for so long that two of them on a busy machine mostly hold cores which others, and one another, want.
if 'OMP_WAIT_POLICY' not in os.environ:
    os.environ.setdefault('GOMP_SPINCOUNT', '10000')

__version__ = '0.1.0'
