"""The web interfaces: each translates one protocol to the predictor and back."""
