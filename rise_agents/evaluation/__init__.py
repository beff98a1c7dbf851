"""Evaluation: success rates, paired statistics, audits against the oracle environment."""
