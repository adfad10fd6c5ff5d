"""One module for each image file format, and what they share: header, orientation, samples."""
