"""Speed, as ratios measured side by side in one run; nothing here asserts a timing. Run with `make bench`."""
