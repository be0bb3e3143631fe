"""What a training patch must have: patch filters."""
