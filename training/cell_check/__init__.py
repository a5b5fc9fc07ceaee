"""``vlm-agent cell-check``: what the robot side promises, measured on real processes against an emulated cell."""
