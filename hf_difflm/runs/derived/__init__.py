"""What is derived from a journal: the JSON of a run, its metrics, its texts."""
