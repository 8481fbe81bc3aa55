"""The whole path from image to servo command: played on a real or an emulated arm, and timed stage by stage."""
