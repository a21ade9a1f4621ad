"""The memory that a training will need, estimated before it begins."""
