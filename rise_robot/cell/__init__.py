"""A MuJoCo work cell with two AgileX Piper arms: real physics, ground truth, scripted experts."""
