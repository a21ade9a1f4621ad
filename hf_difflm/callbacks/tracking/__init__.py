"""How numbers and texts reach TensorBoard, Weights & Biases and Trackio."""
