"""Links: live transports to targets. A link knows how to open channels and when it is lost; it knows nothing of
listeners, clients or tunnels.

    base        the contract
    pool        shares links by identity
    ssh/        speaks SSH
    command     any command that opens a local port;  local_port  finds who listens there;  tcp  a channel to it
"""
