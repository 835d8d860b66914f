"""A small classifier of handwritten digits, trained by us: it makes the demo real."""
