"""How the services of these protos are offered and reached: TLS, roles, limits, logs and metrics.

Both servers, the policy and the bridge, have the same interceptor; docs/network.md describes it for users.
"""
