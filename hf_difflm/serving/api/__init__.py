"""An HTTP API in the form of OpenAI's: one thread with the model, a queue before it, and what is said over the wire."""
