"""The three commands: train, predict and preview."""
