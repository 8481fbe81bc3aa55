"""How a release gets from a workstation, or from a USB stick, to a robot: ssh and rsync of the system, as processes.

| module       | is                                                                |
|--------------|-------------------------------------------------------------------|
| `ssh`        | one connection to a robot, and what its refusals mean             |
| `host_keys`  | a robot that is met for the first time: its fingerprint, accepted |
| `rsync`      | files to the staging folder, with progress and resumption         |
| `release_files` | what of a release lies where on this machine                   |
| `sessions`   | requests to the installer, over ssh or on the robot itself        |
| `flashing`   | one flash over all its connections                                |
| `robot_host` | `RobotHost` and `flash_from`: what a program uses                 |

Nothing here writes anything on a robot outside of its staging folder.
"""
