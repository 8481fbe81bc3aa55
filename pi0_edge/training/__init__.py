"""Flow-matching training of π0 on demonstrations."""
