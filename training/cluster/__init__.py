"""Rollouts by workers on a Ray cluster; the only package that imports Ray."""
