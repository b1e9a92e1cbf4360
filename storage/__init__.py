"""What a registry means, with no HTTP and no Flask in it."""
