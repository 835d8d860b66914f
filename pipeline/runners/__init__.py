"""The Beam runners that jobs are submitted to."""
