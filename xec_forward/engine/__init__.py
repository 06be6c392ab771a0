"""The engine: the process that owns every socket. Nothing outside this room imports it, and it never imports
`client` or `jupyter`; it stands on the ground floor (spec, options, model, errors, wire) alone.

    __main__   starts it: descriptors, log, event loop
    server     the engine's end of the pipe: requests in, reports out
    manager    owns the tunnels
    tunnel     one tunnel: a listener, its link, its state, the supervisor that moves it
    relay      the listener's clients, spliced to channels of the link
    health     says a protocol's hello over a channel
    links/     live transports to targets: ssh (later kubernetes, command), and the pool that shares them
"""
