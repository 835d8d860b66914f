"""Oxford-102 flowers: the deploy definition."""
