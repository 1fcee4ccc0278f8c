"""Descriptors whose close(2) blocks: TCP, SO_LINGER, and more to send than the peer ever reads.

lingering.py send SOCKET SECONDS [UID]            sends one to a Unix socket with one byte; keeps the connection until stdin closes
lingering.py backend CONTROL SERVICE ack|nack SECONDS   registers, makes the close of each offered client block, closes its copy, and answers
lingering.py keep CONTROL SERVICE SECONDS         registers, refuses the first client and keeps a copy; on the first line of stdin it makes its close block, and closes it
lingering.py look CONTROL SERVICE                 registers, and prints for each client whether its close would block
"""
import array, json, os, socket, struct, sys

LEVEL = socket.SOL_SOCKET


def say(**message):
    print(json.dumps(message), flush=True)


def clog(stream, seconds):
    stream.setblocking(False)
    stream.setsockopt(LEVEL, socket.SO_LINGER, struct.pack('ii', 1, seconds))
    block = bytes(1 << 16)
    try:
        while True:
            stream.send(block)
    except BlockingIOError:
        pass


def send(path, seconds, uid=None):
    if uid is not None:
        os.setgroups([])
        os.setgid(int(uid))
        os.setuid(int(uid))
    server = socket.create_server(('127.0.0.1', 0))
    # Not create_connection: it loads a codec, which this user may not be able to read.
    near = socket.socket()
    near.connect(server.getsockname())
    far, _ = server.accept()
    clog(near, int(seconds))
    door = socket.socket(socket.AF_UNIX)
    door.connect(path)
    try:
        door.sendmsg([b'\n'], [(LEVEL, socket.SCM_RIGHTS, array.array('i', [near.fileno()]))])
    except OSError as error:
        say(msg='done', errno=error.errno)
    else:
        say(msg='done', errno=0)
    near.close()
    sys.stdin.read()
    far.close()


class Backend:
    def __init__(self, control, service):
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.connect(control)
        self.unread = b''
        self.lane = None
        greeting = dict(protocol=1, capabilities=[], service=service, weight=1, pid=os.getpid(), sdk='lingering')
        self.write(0x01, json.dumps(greeting).encode())
        kind, answer = self.read()
        say(msg='ready', kind=kind, answer=answer.decode())
        self.write(0x08, b'{"adopted":0,"closed":0,"lag":0}')

    def write(self, kind, payload):
        self.stream.sendall(struct.pack('<IB', 1 + len(payload), kind) + payload)

    def read(self):
        while True:
            if len(self.unread) >= 4:
                (length,) = struct.unpack_from('<I', self.unread)
                if len(self.unread) >= 4 + length:
                    frame, self.unread = self.unread[4 : 4 + length], self.unread[4 + length :]
                    return frame[0], frame[1:]
            part, extra, *_ = self.stream.recvmsg(1 << 16, 64, socket.MSG_CMSG_CLOEXEC)
            if not part:
                sys.exit()
            for *_, numbers in extra:
                self.lane = socket.socket(fileno=struct.unpack('i', numbers[:4])[0])
            self.unread += part

    def offers(self):
        """Sequence, token and id of the one connection in each OFFER, and the client; heartbeats are answered."""
        while True:
            kind, payload = self.read()
            if kind == 0x07 and b'"reply":false' in payload:
                self.write(0x07, payload.replace(b'"reply":false', b'"reply":true'))
            if kind == 0x10:
                offer = struct.unpack_from('<Q16s16s', payload, 2)
                _, extra, *_ = self.lane.recvmsg(64, 64, socket.MSG_CMSG_CLOEXEC)
                yield *offer, socket.socket(fileno=struct.unpack('i', extra[0][2][:4])[0])


def backend(control, service, answer, seconds):
    peer = Backend(control, service)
    for sequence, token, connection, client in peer.offers():
        clog(client, int(seconds))
        client.close()
        if answer == 'ack':
            peer.write(0x11, struct.pack('<HQ16s', 1, sequence, connection))
        else:
            peer.write(0x12, struct.pack('<HQB16s', 1, sequence, 7, token))
        say(msg='answered', sequence=sequence)


def keep(control, service, seconds):
    peer = Backend(control, service)
    sequence, token, _, client = next(peer.offers())
    peer.write(0x12, struct.pack('<HQB16s', 1, sequence, 7, token))
    say(msg='refused')
    sys.stdin.readline()
    clog(client, int(seconds))
    client.close()
    say(msg='closed')
    sys.stdin.read()


def look(control, service):
    peer = Backend(control, service)
    for sequence, _, connection, client in peer.offers():
        on, _ = struct.unpack('ii', client.getsockopt(LEVEL, socket.SO_LINGER, 8))
        say(msg='offered', lingers=on, blocking=os.get_blocking(client.fileno()))
        peer.write(0x11, struct.pack('<HQ16s', 1, sequence, connection))


{'send': send, 'backend': backend, 'keep': keep, 'look': look}[sys.argv[1]](*sys.argv[2:])
