"""What a command does with a Trainer: recipes and flags to typed settings, run folders, one run and several."""
