"""The Beam transforms: list images, plan a run, score, publish."""
