"""What nets there are: definitions, where their weights are published, and how their input is prepared."""
