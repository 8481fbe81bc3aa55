"""The CUDA kernels of π0, each as one C function and one torch operator in the namespace `pi0`.

`cuda/` holds the sources, `library` loads what `make kernels` builds of them, and every other module is one kernel: a
function that writes into given outputs, the operator around it, and what the kernel computes written in torch.
"""
