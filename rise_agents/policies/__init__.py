"""Policies: action chunks from observations, conditioned on an advantage."""
