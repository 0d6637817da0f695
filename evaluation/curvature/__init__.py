"""The curvature of a training loss: its Hessian's spectrum and largest eigenvalue, slices of the loss."""
