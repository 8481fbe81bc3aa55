"""The CUDA engine: the network as kernels of `pi0_edge.kernels`, captured in graphs."""
