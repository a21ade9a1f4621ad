"""The checklist of a run: what its log says of the diffusion, of importance and of the training."""
