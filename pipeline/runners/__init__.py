"""The Beam runners that densecast submits jobs to."""
