"""What a trained model is worth: likelihood with its standard errors."""
