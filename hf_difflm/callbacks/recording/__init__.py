"""How a training writes its run log: from what a Trainer reports to the lines of the journal, and what is derived from it."""
