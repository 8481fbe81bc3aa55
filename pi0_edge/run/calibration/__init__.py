"""Zero, direction and range of every joint, found by moving the arm by hand while the firmware reports where it is."""
