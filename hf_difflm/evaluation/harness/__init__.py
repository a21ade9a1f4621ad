"""Tasks of lm-evaluation-harness, with the models of this project."""
