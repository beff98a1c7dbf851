"""Self-improvement on several devices and machines through Ray; see docs/scaling.md."""
