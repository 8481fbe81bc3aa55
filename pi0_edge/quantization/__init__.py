"""From recordings to a quantized policy: sources of observations, their checks, calibration."""
