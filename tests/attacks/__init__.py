"""Hostile files, one test file a failure. Every attack ends in a typed error, in little time and memory."""
