"""From places to batches: reading ahead, patch extraction, the dataset and its loader."""
