"""The microcontroller's side: C sources, and the Python that makes its joint tables."""
