"""Text from a model: prompts in, texts out, shown while they are written."""
