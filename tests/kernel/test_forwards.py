"""Every kind of forward from the magic: several on one line, remote, SOCKS, lazy, limited; an interrupt closes none."""

from __future__ import annotations

import signal

from tests.interop.test_python_api import ask
from tests.interop.test_socks_proxy import connect5
from tests.peers.kernel import Kernel, wait_until
from tests.peers.ports import free_port, port_free
from tests.peers.services import Services
from tests.peers.sshd import Sshd


def test_several_specs_of_all_kinds_on_one_line_share_one_login(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    far, port = bastion.far(), free_port()
    line = (
        f"%forward bastion api=0:{far}:{services.echo} -L 0:{far}:{services.reply} -R hook=0:localhost:{services.echo}"
    )
    done = kernel.run(f"group = {line} -D {port} --as dev").ok()
    assert kernel.value("list(group)") == ["api", "pg", "hook", "socks"]
    assert (
        kernel.value("[dev is group, group.api is api, group['socks'] is socks, group[socks.local_port] is socks]")
        == [True] * 4
    )
    assert kernel.value("[t.state for t in group.values()]") == ["ready"] * 4
    assert bastion.log.read_text().count("Accepted publickey") == 1
    assert ask(kernel.value("api.local_port")) == b"ping"
    assert ask(kernel.value("hook.remote_port")) == b"ping"
    code, client = connect5(port, far, services.echo)
    client.close()
    assert code == 0
    assert f"127.0.0.1:{port} -> bastion -> anywhere (SOCKS)" in done.text
    assert f"bastion:{kernel.value('hook.remote_port')} -> here -> localhost:{services.echo}" in done.text
    kernel.run("dev.close_all()").ok()
    assert kernel.value("[len(__import__('xec_forward').tunnels), 'api' in globals(), 'dev' in globals()]") == [
        0,
        False,
        False,
    ]
    assert port_free(port)


def test_one_of_several_fails_alone_or_takes_all_along(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    far = bastion.far()
    line = f"%forward bastion good=0:{far}:{services.echo} bad=0:{far}:{services.refused}"
    refused = kernel.run(f"{line} --exit-on-failure")
    assert refused.error is not None
    assert refused.error.traceback.startswith("ECONNREFUSED ")
    assert kernel.value("len(__import__('xec_forward').tunnels)") == 0
    kept = kernel.run(line).ok()
    assert "ECONNREFUSED" in kept.text
    assert kernel.value("good.state") == "ready"
    assert ask(kernel.value("good.local_port")) == b"ping"


def test_proxy_environment_is_set_and_put_back(kernel: Kernel, bastion: Sshd) -> None:
    kernel.run("import os\nos.environ['NO_PROXY'] = 'intranet.example'\nos.environ.pop('ALL_PROXY', None)").ok()
    done = kernel.run("%forward bastion -D 0 --set-proxy-env").ok()
    url = kernel.value("socks_url.reveal()")
    assert url == f"socks5h://127.0.0.1:{kernel.value('socks.local_port')}"
    look = "[os.environ.get('ALL_PROXY'), os.environ.get('NO_PROXY')]"
    assert kernel.value(look) == [url, "intranet.example,localhost,127.0.0.1,::1"]
    assert "ALL_PROXY" in done.text
    kernel.run("socks.close()").ok()
    assert kernel.value(look) == [None, "intranet.example"]


def test_proxy_environment_and_requests_reach_what_only_the_bastion_resolves(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    kernel.run("%forward bastion -D 0 --set-proxy-env").ok()
    # Refused as seen from the bastion, under a name that only it knows: the request went through.
    cell = f"import requests\nrequests.get('http://{bastion.far()}:{services.refused}/', timeout=10)"
    done = kernel.run(cell)
    assert done.error is not None
    assert "0x05" in done.error.traceback
    wait_until(lambda: kernel.value("str(socks.error)").startswith("ECONNREFUSED"), "no error event")


def test_proxy_environment_takes_no_password(kernel: Kernel, bastion: Sshd) -> None:
    cell = "import os\nos.environ['P'] = 'hush-hush'\n"
    done = kernel.run(f"{cell}%forward bastion -D 0 --set-proxy-env --socks-user ana --socks-password env:P")
    assert done.error is not None
    assert "--set-proxy-env and --socks-user do not go together" in done.error.traceback
    assert kernel.value("[len(__import__('xec_forward').tunnels), 'ALL_PROXY' in os.environ]") == [0, False]
    done = kernel.run("%forward bastion -D 0 --socks-user ana --socks-password env:P").ok()
    assert "hush-hush" not in done.text + kernel.run("print(socks, socks_url, socks.proxies)\nsocks_url").ok().text


def test_lazy_line_shows_an_idle_tunnel_that_serves_its_first_client(
    kernel: Kernel, bastion: Sshd, services: Services
) -> None:
    done = kernel.run(f"%forward bastion 0:{bastion.far()}:{services.echo} --as echo --lazy").ok()
    assert "idle" in done.text
    assert bastion.connections() == 0
    port = kernel.value("echo.local_port")
    assert ask(port) == b"ping"
    wait_until(lambda: kernel.value("echo.state") == "ready", "the lazy tunnel is not ready")
    bastion.restart()
    wait_until(lambda: kernel.value("echo.state") == "idle", "the lazy tunnel does not rest")
    assert ask(port) == b"ping"


def test_interrupt_closes_no_tunnel(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    kernel.run(f"%forward bastion a=0:{bastion.far()}:{services.echo} -R b=0:localhost:{services.echo}").ok()
    ports = kernel.value("[a.local_port, b.remote_port]")
    running = kernel.start("print('in'); import time\nwhile True: time.sleep(0.01)")
    running.until(lambda result: "in" in result.stdout)
    kernel.signal(signal.SIGINT)
    error = running.wait(10).error
    assert error is not None
    assert error.name == "KeyboardInterrupt"
    kernel.signal(signal.SIGINT)
    assert kernel.value("[a.state, b.state]") == ["ready", "ready"]
    assert [ask(port) for port in ports] == [b"ping", b"ping"]


def test_limits_of_a_line(kernel: Kernel, bastion: Sshd, services: Services) -> None:
    far = bastion.far()
    kernel.run("import xec_forward as xf\nxf.tunnels.limit = 1").ok()
    kernel.run(f"%forward bastion 0:{far}:{services.echo} --as one --ttl 2s --max-connections 1").ok()
    more = kernel.run(f"%forward bastion 0:{far}:{services.reply} --as two")
    assert more.error is not None
    assert more.error.traceback.startswith("ELIMIT 1 tunnels are open, the most allowed. ")
    assert "xf.tunnels.limit = 2" in more.error.traceback
    wait_until(lambda: kernel.value("len(xf.tunnels)") == 0, "its ttl is over")
    assert kernel.value("'one' in globals()") is False
