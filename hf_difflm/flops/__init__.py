"""Architecture in, floating-point operations out. Nothing in here imports torch."""
