"""The `densecast` command."""
