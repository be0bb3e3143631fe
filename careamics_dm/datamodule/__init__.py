"""The DataModule that all formats share, and its settings."""
