"""What nothing states, measured: on test tensors, and on the user's own images without labels (`init --images`)."""
