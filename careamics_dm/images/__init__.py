"""What an image is: axes, regions, stacks and sets of them."""
