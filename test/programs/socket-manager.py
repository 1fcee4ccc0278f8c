# A service manager's part of socket activation: opens the sockets in argv[1] (JSON: name, and tcp, udp or unix), keeps
# them, and on each line of input starts argv[2:] with copies of them from descriptor 3 on. The line is the process's
# LISTEN_PID, "own" for the correct one.
import fcntl
import json
import os
import socket
import sys

SPARE = 100


def opened(wanted):
    if "udp" in wanted:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((wanted["udp"], 0))
        return made
    if "unix" in wanted:
        made = socket.socket(socket.AF_UNIX)
        made.bind(wanted["unix"])
    else:
        made = socket.socket()
        made.bind((wanted["tcp"], 0))
    made.listen(128)
    return made


def say(**message):
    print(json.dumps(message), flush=True)


wanted = json.loads(sys.argv[1])
sockets = [opened(each) for each in wanted]
ports = {each["name"]: made.getsockname()[1] for each, made in zip(wanted, sockets) if "unix" not in each}
say(msg="bound", ports=ports)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        # First to high numbers: one socket may have the number that another one needs.
        spare = [fcntl.fcntl(made.fileno(), fcntl.F_DUPFD, SPARE) for made in sockets]
        for index, fd in enumerate(spare):
            os.dup2(fd, 3 + index, inheritable=True)
            os.close(fd)
        pid = line.strip()
        os.environ["LISTEN_PID"] = str(os.getpid()) if pid == "own" else pid
        os.environ["LISTEN_FDS"] = str(len(sockets))
        os.environ["LISTEN_FDNAMES"] = ":".join(each["name"] for each in wanted)
        os.execvp(sys.argv[2], sys.argv[2:])
    say(msg="started", pid=child)
    _, status = os.waitpid(child, 0)
    say(msg="ended", code=os.waitstatus_to_exitcode(status))
