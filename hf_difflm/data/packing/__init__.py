"""Documents to rows for the model: cut from one stream, or whole and apart."""
