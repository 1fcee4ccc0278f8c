"""The same in Python: python3 peer.py send SOCKET FILE, or python3 peer.py receive SOCKET"""

import array
import os
import socket
import sys


def send(path, name):
    with socket.socket(socket.AF_UNIX) as connection, open(name) as file:
        connection.connect(path)
        fds = array.array("i", [file.fileno()])
        connection.sendmsg([b"a file"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])


def receive(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("listening", flush=True)
        connection, _ = listener.accept()
        # Not recv_fds(), which ignores its flags: the descriptor would be inherited by children.
        data, control, _, _ = connection.recvmsg(64, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                (fd,) = array.array("i", content[:4])
                with os.fdopen(fd) as file:
                    print(f"{data.decode()}: {file.read()}", flush=True)


{"send": send, "receive": receive}[sys.argv[1]](*sys.argv[2:])
