"""The objective of ATAT: learned importance decides what is masked, and a curriculum how much of it."""
