"""A conversation in the terminal: what is typed, what the model answers, what is changed between two turns."""
