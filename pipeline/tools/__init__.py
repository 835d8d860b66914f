"""Single tools behind commands: inspect, verify, bench, show, demo, verify-runner."""
