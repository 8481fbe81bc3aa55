"""The only definition of what crosses a process (`*.proto`) or the serial wire (`serial_link.yaml`)."""
