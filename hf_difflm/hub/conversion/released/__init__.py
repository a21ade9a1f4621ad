"""Diffusion language models that others have released: their folders read into ours and written back."""
