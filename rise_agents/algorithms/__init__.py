"""Algorithms that improve a policy, one file each, behind the contract of `base`."""
