"""The Python API for scripts and asyncio code. Knows nothing of Jupyter, imports nothing of the engine, and
touches no network: all it has is one pipe to the engine process.

    process      start an engine, talk over its pipe, end it
    connection   calls to the engine, its reports, its death
    call         one request and its answer, waited for in a thread or a coroutine
    together     several calls waited for as one
    session      this process's tunnels, and a new engine's opening of them
    reconnecting a new link on request, with somebody there to answer
    doctor       an examination and how it is shown;  offer  the line that a failed opening ends with
    watcher      what a waiting caller shows, and whom it can ask
    sources      SOURCEs resolved to secrets
    profiles     lines with `@NAME`;  project  the file that says what it stands for
    targets      ssh(): targets made in Python;  wanted  the arguments of forward()
    tunnel       the handle of one tunnel;  group  the handle of several;  registry  what is open
    sqlalchemy   an engine whose every connection asks for its password anew
"""
