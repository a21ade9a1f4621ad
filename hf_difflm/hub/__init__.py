"""From a run to the Hub and from other people's models to ours: what goes up, its model card, the upload, conversion."""
