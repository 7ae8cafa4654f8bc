"""Every touch of Hugging Face transformers."""
