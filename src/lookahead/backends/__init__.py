"""How a forward pass is done other than by the model's own code."""
