"""Closed-loop success of a policy on the simulated task."""
