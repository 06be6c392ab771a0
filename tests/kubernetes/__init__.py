"""Port-forwards through the public surface: against the embedded API server, or any real cluster (`--kubeconfig`)."""
