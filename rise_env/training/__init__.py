"""The training loop that every model of this package shares."""
