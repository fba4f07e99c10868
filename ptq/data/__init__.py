"""Images from disk, and what stands between an image and a network."""
