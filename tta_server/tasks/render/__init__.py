"""Results as JSON, PNG, tensors, lines of text and drawings."""
