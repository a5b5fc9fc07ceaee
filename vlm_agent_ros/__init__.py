"""A vision-language model as the decision maker of a robot cell.

This package is what runs at the cell: policy, action languages, motion, safety rules and the thin ROS 2 nodes.
It never imports a simulator or the training stack.
"""

__version__ = '0.1.0'
