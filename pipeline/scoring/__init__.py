"""Images into rows, without Beam."""
