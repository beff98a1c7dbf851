"""Box closing: task, expert, imperfect operators."""
