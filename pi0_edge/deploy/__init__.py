"""Releases of a policy onto robots: signed, sent, tested on the robot, tried, committed or taken back.

| folder         | is                                                                    | runs on |
|----------------|-----------------------------------------------------------------------|------------------------------ |
| `trust`        | keys, and what they sign: TUF metadata (The Update Framework)         | workstation and robot |
| `sdk`          | the packages of a robot in a folder, for an installation without network | workstation |
| `transfer`     | ssh and rsync as processes, a session with the installer              | workstation |
| `provisioning` | accounts, units and settings that a robot's computer gets once        | workstation |
| `installer`    | checks, self-test, trial, commit, rollback, garbage collection        | robot, in an SDK environment |
| `launcher`     | slots, journal, starting the chosen release, falling back to the last | robot, system Python alone |
| `fleet`        | many robots: the playbook, metrics and alert rules                    | workstation |

A release is a bundle with a signed statement about it (`release`). docs/flash/index.md tells the story.
"""
