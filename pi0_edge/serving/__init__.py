"""The policy behind a port: gRPC service, server and client.

Nothing is imported here: a client runs without torch.
"""
