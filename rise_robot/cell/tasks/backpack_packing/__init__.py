"""Backpack packing: task, expert, imperfect operators."""
