"""Generates the Python and C code of every interface from its definition."""
