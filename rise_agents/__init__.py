"""Policies and algorithms that learn in imagination and on the robot, and the `rise` command."""
