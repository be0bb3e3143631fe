"""What is done to whole batches: statistics, normalisation, augmentation."""
