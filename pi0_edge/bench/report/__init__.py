"""A result for people: one page that needs nothing else, and the summary of the terminal."""
