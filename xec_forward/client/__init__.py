"""The Python API for scripts and asyncio code. Knows nothing of Jupyter, imports nothing of the engine, and
touches no network: all it has is one pipe to the engine process.

    process    start an engine, talk over its pipe, end it
    session    this process's tunnels: calls, events, and a new engine where one died
    call       one request and its answer, waited for in a thread or a coroutine
    watcher    what a waiting caller shows, and whom it can ask
    sources    SOURCEs resolved to secrets
    targets    ssh(): targets made in Python
    tunnel     the handle of one tunnel;  group  the handle of several
    sqlalchemy an engine whose every connection asks for its password anew
"""
