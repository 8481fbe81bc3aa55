"""The robot's side of flashing: checks, self-test, trial, commit, rollback, garbage collection.

    idle → checking → receiving ⟲ → verifying → staged → testing → trial → committed
                                                              └──────────┴→ taken back

It runs as root, one process for each connection, in the SDK environment of the committed release. Anything but `trial`
and `committed` leaves the running service alone, and every step can be run again.
"""
