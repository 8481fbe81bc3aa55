"""From a checkpoint to a policy that may move a robot: frames, calibration, the scan, the gate and its report."""
