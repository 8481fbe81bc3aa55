"""The only definition of what crosses a process (`*.proto`) or the serial wire (`serial_link.yaml`).

Importing it refuses a gRPC or protobuf whose version does not fit the generated modules, which would end in a traceback
of theirs.

Raises:
    MissingDependencyError: If one of these packages is installed in a version that does not fit.
"""

from pi0_edge.installed_packages import check_versions

check_versions(("grpcio", "grpcio-health-checking", "grpcio-reflection", "protobuf"))
