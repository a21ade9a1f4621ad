"""Pages about runs: HTML that needs nothing from anywhere, and markdown."""
