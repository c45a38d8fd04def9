#!/usr/bin/env python3
"""Boots COUNT machines in parallel over the API, waits until each is ready, runs a command in each over vsock, stops them,
and checks that nothing is left.

usage: orchestrator.py VMM COUNT COMMAND KERNEL [WORDS [INITRD]]

The guest, whose kernel gets WORDS, says READY=1 to port 9999 of the host (CID 2), takes a line on port 52, and sends
back what comes of it.
"""

import http.client, json, os, socket, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor


class Api(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.host)

    def ask(self, method, path, body=None):
        self.request(method, path, body and json.dumps(body))
        reply = self.getresponse()
        text = reply.read()
        assert reply.status in (200, 204), f"{method} {path}: {text.decode()}"
        return text and json.loads(text)


def run(number):
    """One machine's life. Its directory has nothing of another's."""
    home = os.path.join(directory, str(number))
    os.mkdir(home)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{home}/api.sock")
        listener.listen()
        # Inherited, the socket is there before the machine is: nobody has to look whether it has come.
        arguments = [vmm, "--api-sock", f"fd={listener.fileno()}", "--id", f"vm-{number}"]
        machine = subprocess.Popen(arguments, cwd=home, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL)
    try:
        api = Api(f"{home}/api.sock", timeout=300)
        api.ask("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 128})
        api.ask("PUT", "/boot-source", {"kernel_image_path": kernel, "boot_args": words, "initrd_path": initrd})
        api.ask("PUT", "/serial", {"type": "file", "path": "serial.log"})
        api.ask("PUT", "/vsock", {"guest_cid": 3, "uds_path": "vsock.sock", "ready_port": 9999})
        api.ask("PUT", "/actions", {"action_type": "InstanceStart"})
        sign = api.ask("GET", "/vm/wait/ready")["by"]
        output = in_guest(f"{home}/vsock.sock", command)
        api.ask("PUT", "/actions", {"action_type": "Stop", "grace": "0s"})
        status = machine.wait(60)
    finally:
        machine.kill()
        machine.wait()
    left = sorted(os.listdir(home))
    assert left == ["api.sock", "serial.log"], f"left behind: {left}"
    return f"vm-{number}: ready by {sign}, said {output.strip()!r}, ended with {status}"


def in_guest(path, line):
    with socket.socket(socket.AF_UNIX) as guest:
        guest.settimeout(300)
        guest.connect(path)
        stream = guest.makefile("rwb")
        stream.write(b"CONNECT 52\n")
        stream.flush()
        assert stream.readline().startswith(b"OK "), "nobody listens in the guest"
        stream.write(line.encode() + b"\n")
        stream.flush()
        return stream.read().decode()


vmm, count, command, kernel, words, initrd = (sys.argv[1:] + [None, None])[:6]
vmm, kernel, initrd = os.path.abspath(vmm), os.path.abspath(kernel), initrd and os.path.abspath(initrd)
with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(int(count)) as pool:
    for line in pool.map(run, range(int(count))):
        print(line)
print(f"{count} machines came and went, and nothing is left of them")
