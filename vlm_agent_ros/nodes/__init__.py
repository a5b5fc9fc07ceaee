"""The ROS 2 nodes: thin adapters between the interface's topics and the core, which never imports rclpy."""
