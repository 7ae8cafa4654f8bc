"""All that is known of the private parts of transformers."""
