"""What a robot's computer gets once: accounts, folders, launcher, units, settings, and the root of its trust.

| module     | is                                                                           |
|------------|------------------------------------------------------------------------------|
| `survey`   | what the computer is and has, and what it lacks                              |
| `payload`  | the files that it gets, as one tar                                           |
| `provision.sh` | puts them in their places, each whole or not at all; it runs on the robot |
| `flash_keys` | the key of this workstation's user                                         |
| `provision` | all of it, in order                                                         |
| `units/`   | of systemd                                                                   |

Provisioning again is an update: what is right stays, and releases, slots and journal are never touched.
"""
