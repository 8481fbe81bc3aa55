"""The policy behind a port: gRPC service, server and client.

Nothing is imported here but the check of gRPC's version: a client runs without torch.
"""

import pi0_edge.protos  # noqa: F401  # before grpc_health, which would fail in its own words
