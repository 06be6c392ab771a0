"""Links: live transports to targets. A link knows how to open channels and when it is lost; it knows nothing of
listeners, clients or tunnels. `base` is the contract, `pool` shares links by identity, `ssh` speaks SSH."""
