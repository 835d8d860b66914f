"""The Beam transforms: list images, plan a run, score, publish."""

from pipeline.quiet_beam import import_beam

import_beam()
