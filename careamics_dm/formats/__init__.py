"""One module per format: its image stack, how a source becomes stacks, its DataModule."""
