"""The audit log of a cell: what was seen, thought, judged and commanded, as MCAP. Free of ROS."""
