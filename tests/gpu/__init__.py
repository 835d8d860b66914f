"""What a machine with a GPU has to answer; README.md says how."""
