"""Maps for the eye."""
