"""Dynamic brick sorting: task, expert, imperfect operators."""
