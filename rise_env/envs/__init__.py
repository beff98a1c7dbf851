"""The learned simulator as a Gymnasium environment: start states, episodes, candidate evaluation."""
