"""The whole path on one machine: simulated ALOHA, INT8 policy, bridge and the real firmware in QEMU.

    simulated_robot ── observation ──► policy server ── chunk ──► simulated_robot ── chunk ──► bridge
          ▲                                                                                      │ serial frames
          └───────────── telemetry: where the servos were measured, tick by tick ◄──────── firmware in QEMU ◄──► servos

Every box is a process of its own. There is one clock, the firmware's tick: the simulation advances by exactly the ticks
that the firmware reports, and its joints follow the positions that the servos measured.
"""
