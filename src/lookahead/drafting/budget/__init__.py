"""How many tokens to verify in one forward pass: step times, policy, controller."""
