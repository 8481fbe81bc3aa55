"""Where named points of the robot may be: a chunk whose path leaves the boxes of a file is refused.

This is no safety function: it knows commanded positions and a model, and it runs on the host.
"""
