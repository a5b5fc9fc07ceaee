"""``vlm-agent bench``: how fast each part is, against what a user would otherwise use and against its limit."""
