"""Models of others as masked diffusion models."""
