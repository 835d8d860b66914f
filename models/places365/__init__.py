"""CaffeNet-Places365: the deploy definition."""
