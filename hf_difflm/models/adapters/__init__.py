"""Adapters of PEFT (LoRA, arXiv 2106.09685, and its kin) beside a network: their folders, kinds, files, and merging them."""
