"""Training on demonstrations: small networks from random weights (`run`), checkpoints of any size (`fine_tuning`)."""
