"""How likely held-out text is under a model, with the standard errors of that number."""
