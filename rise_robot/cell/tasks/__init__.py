"""Tasks of the work cell, a folder each."""
