"""A CUDA device that is not there: tensors that say `cuda:0` over data of the CPU, graphs, streams, waits."""
