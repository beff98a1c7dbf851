"""Training: `loop` for all models, `setup` from recordings to dynamics and value, `bundle` to a whole bundle."""
