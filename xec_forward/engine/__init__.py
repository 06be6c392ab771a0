"""The engine: the process that owns every socket. Nothing outside this room imports it, and it never imports
`client` or `jupyter`; it stands on the ground floor (spec, options, model, errors, wire) alone.

    __main__   starts it: descriptors, log, event loop
    server     the engine's end of the pipe: requests in, reports out
    manager    owns the tunnels;  house  what they share
    tunnel     one tunnel: a front, its link, its state, the supervisor that moves it;  opening  what it shows and asks
    front      the near end: listens here, or has the target listen
    listener   binds and holds;  neighbours  who else of ours holds a port
    relay      the clients of one tunnel;  splice  one of them, spliced to a channel;  peer  its socket
    handshake  where a proxy's client wants to go;  socks  one of those
    health     says a protocol's hello over a channel
    sock_diag  asks Linux who owns a socket;  descriptors  what is kept free of the open files allowed
    program    another program, under the reaper;  reaper  ends it when the engine goes
    links/     live transports to targets: ssh, command, and the pool that shares them
"""
