"""How the callbacks measure: norms, histograms, activations, tokens, FLOPs, clocks and devices."""
