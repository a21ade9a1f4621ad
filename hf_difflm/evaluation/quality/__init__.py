"""What generated texts are worth, and what they cost."""
