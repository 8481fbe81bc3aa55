"""Servo buses without servos: a process that answers as the servos of an arm do, Dynamixel or Feetech.

Bytes come in through a pseudo-terminal or a UNIX socket, packets are decoded and executed on the registers of emulated
servos, and behind each servo turns the model of a joint. Start with `servo_bus.child` (from Python) or with
`python -m firmware_bridge.emulator.servo_bus` (from a shell).

What the process takes of one core while a host writes goals at 250 Hz and reads both buses of an ALOHA stands in
`benchmarks/results/servo_bus.txt`.

Nothing is imported here, so that the process starts quickly.
"""
