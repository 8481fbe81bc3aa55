"""The bridge process: a gRPC service in front of one arm."""
