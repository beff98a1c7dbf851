"""Whole workflows, put together from all packages: what the commands call. With `rise_agents.cli` the composition root.

The modules here may import `rise_robot`; nothing but `rise_agents.cli` and `benchmarks` imports them.
"""
