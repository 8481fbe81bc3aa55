"""The bridge between a policy and the microcontroller: gRPC on one side, a serial link on the other.

Installs and runs without torch. Nothing is imported here, so that the wire process starts quickly.
"""
