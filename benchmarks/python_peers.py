"""Python's other port-forwards, run as `PYTHON python_peers.py PEER KUBECONFIG NAMESPACE POD PORT...`.

PEER is `kr8s` or `portforward`, of which PYTHON must have the package; nothing else is imported. It reports the local
ports as one line of JSON, in the order of the pod's, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys


async def until_stdin_ends() -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def kr8s(kubeconfig: str, namespace: str, pod: str, ports: list[int]) -> None:
    import kr8s
    from kr8s.asyncio.objects import Pod

    api = await kr8s.asyncio.api(kubeconfig=kubeconfig)
    found = await Pod.get(pod, namespace=namespace, api=api)
    async with contextlib.AsyncExitStack() as stack:
        # Its own "auto" takes a random one, which may be taken.
        forwards = [found.portforward(port, local_port=free_port()) for port in ports]
        print(json.dumps([await stack.enter_async_context(each) for each in forwards]), flush=True)
        await until_stdin_ends()


async def portforward(kubeconfig: str, namespace: str, pod: str, ports: list[int]) -> None:
    import portforward

    forwards = [portforward.AsyncPortForwarder(namespace, pod, 0, port, config_path=kubeconfig) for port in ports]
    for each in forwards:
        await each.forward()
    print(json.dumps([each.from_port for each in forwards]), flush=True)
    await until_stdin_ends()


if __name__ == "__main__":
    peer, kubeconfig, namespace, pod, *ports = sys.argv[1:]
    run = {"kr8s": kr8s, "portforward": portforward}[peer]
    asyncio.run(run(kubeconfig, namespace, pod, [int(port) for port in ports]))
