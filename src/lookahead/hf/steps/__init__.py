"""The forward passes of a call: step models, and the runners that execute their steps."""
