"""Recorded demonstrations on disk: reader (v2.0, v2.1, v3.0) and writer (v3.0) of the LeRobotDataset layout."""
