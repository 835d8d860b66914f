"""Scoring jobs: described, calibrated, submitted, watched, and run every night."""
