"""What a backbone is, measured: one token is changed, and the positions that move say what reads what."""
