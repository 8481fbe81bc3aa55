"""Releases of a policy onto robots: signed, sent, tested on the robot, tried, committed or taken back.

On the workstation:

* `trust`: keys, and what they sign, which is TUF metadata (The Update Framework); the robot checks with it.
* `sdk`: the packages of a robot in a folder, for an installation without a network.
* `transfer`: ssh and rsync as processes, and a session with the installer.
* `provisioning`: accounts, units and settings that a robot's computer gets once.
* `fleet`: many robots: the playbook, metrics and alert rules.

On the robot:

* `installer`: checks, self-test, trial, commit, rollback, garbage collection; runs in an SDK environment.
* `launcher`: slots, journal, start of the chosen release, fallback; runs with the system's Python alone.

A release is a bundle with a signed statement about it (`release`). docs/flash/index.md tells the story.
"""
