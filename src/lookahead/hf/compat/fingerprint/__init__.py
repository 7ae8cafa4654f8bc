"""What a forward pass depends on besides its inputs: whose code runs, and what may have changed."""
