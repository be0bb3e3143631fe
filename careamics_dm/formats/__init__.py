"""One module per format: its image stack, how a source becomes stacks, its DataModule.

`array` is the shortest, and a pattern for others.
"""
