"""From what a user names to opened, paired and checked images."""
