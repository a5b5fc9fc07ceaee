"""What is made of audit logs: decisions repeated, incidents shown."""
