"""The dashboard: what a training looks like, drawn from its journal."""
