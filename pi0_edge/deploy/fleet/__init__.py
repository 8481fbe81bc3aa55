"""Many robots: one release to all of them in stages, and what each of them runs.

| file            | is                                                                          |
|-----------------|-----------------------------------------------------------------------------|
| `inventory`     | the robots of an ansible inventory, and how ssh reaches them                |
| `states`        | what robots run, asked of many at once                                      |
| `roll_out`      | a release to all robots in stages; `roll_out.yml` is its playbook           |
| `plan`          | what a roll-out passes to the processes of its playbook, and hears from them|
| `one_robot`     | one step of the playbook: one robot, through `pi0-edge flash`               |
| `stage`         | the other step: begins a stage, and looks at its robots at the end          |
| `robot_command` | `pi0-edge flash` as a process                                               |
| `report`        | what became of each robot                                                   |

ansible-core decides which robots come when and when to stop; every robot is flashed by the command that a person types.
docs/flash/fleet.md tells how it is used.
"""
