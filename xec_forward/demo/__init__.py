"""The demo: private services to try `%forward` and `%k8s_forward` on, with nothing but Python.

What lives here:

    services.py    the services together: the context manager that the demo and the tests use
    bastion.py     an SSH server that only forwards, in a process of its own
    postgres.py    a PostgreSQL with a small table, in a process of its own
    cluster/       a Kubernetes API server with pods behind it, in a process of its own
    pods.py        what runs in its pods, in another
    rollout.py     what happens to pods: one is deleted, and its owner replaces it
    lifeline.py    how such a process is started, reports, and ends with whoever started it
    run.py         `make demo`: the quickstart notebook in a real kernel, and what is left behind (nothing)
    lab.py         `make lab`: the same notebook in JupyterLab
    progress.py, leftovers.py    what `run` shows, and what it checks at the end

Nothing else in the package imports this room. It needs the extra `demo`, and a POSIX system: the database
listens on a unix socket only.
"""
