"""Models that answer: a chat in the terminal, an HTTP API."""
