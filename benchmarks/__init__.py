"""Measured side by side with `ssh -L` on the same sshd, in interleaved pairs; medians are printed."""
