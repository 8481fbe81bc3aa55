"""Pages for people that need nothing else: HTML with its style inside, and figures as SVG text."""
