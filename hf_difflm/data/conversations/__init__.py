"""Conversations: from rows of messages to token ids, of which those of the answers are scored."""
