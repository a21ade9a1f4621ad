"""What a run is, and how its journal is written."""
