"""The lab: user-mode Linux machines with their own kernels, on a network of their own."""
