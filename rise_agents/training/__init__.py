"""What every algorithm needs and none should write: runner, checkpoints, TensorBoard."""
