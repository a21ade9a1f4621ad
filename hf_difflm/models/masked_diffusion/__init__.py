"""The denoiser: torch and transformers only, relative imports only, so that these files can travel to the Hub."""
