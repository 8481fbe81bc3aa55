"""Distillation: a policy of many Euler steps teaches one of the same network that needs one or two."""
