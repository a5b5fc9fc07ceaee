"""Where a policy acts: N worlds in lock step, in this process or through ROS 2; the cell, or any environment."""
