"""Image file formats: one module per format, and the header, orientation and sample code that they share."""
