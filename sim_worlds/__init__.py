"""Simulated cells: PyBullet worlds in lock step, their tasks and experts, and the node that puts one on ROS."""
