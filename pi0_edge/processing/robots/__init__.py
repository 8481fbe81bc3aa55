"""Robot layouts as YAML files; read by `pi0_edge.processing.robot_layouts`."""
