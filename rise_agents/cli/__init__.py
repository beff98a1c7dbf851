"""The `rise` command: `main` finds the sub-command, and each sub-command is one module beside it."""
