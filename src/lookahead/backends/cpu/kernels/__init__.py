"""The kernels of the compiled CPU decoder, from pointers up to attention."""
