// The types of `@baton/native-sendmsg` from a program's point of view.
import {
  acceptOne,
  type AcceptedConnection,
  BatonNativeError,
  type BatonNativeErrorCode,
  type BorrowedFd,
  Endpoint,
  EPOLLIN,
  listenTcp,
  NativeError,
  OwnedFd,
  peerCredentials,
  Poller,
  ReceiveBatch,
  receiveMessage,
  SendBatch,
  sendMessage,
  socketpair,
  supported,
} from '@baton/native-sendmsg'
import { same } from './same.ts'

same<boolean, typeof supported>(true)

// Ownership of a descriptor is in its type: arguments are borrowed, results are owned.
const [ours, theirs] = socketpair('seqpacket')
same<OwnedFd, typeof ours>(true)
same<BorrowedFd, typeof ours.fd>(true)
sendMessage(ours.fd, { bytes: Buffer.alloc(16), fds: [theirs.fd] })
// @ts-expect-error: a number is passed, not its owner
sendMessage(ours, { bytes: Buffer.alloc(16), fds: [] })
// @ts-expect-error: Unix socket types only
socketpair('raw')
// @ts-expect-error: only the owner closes it, by its method
ours.fd = -1

// An empty queue is a normal result, and must be checked for.
const message = receiveMessage(theirs.fd, { size: 64, maxFds: 1 })
// @ts-expect-error: it may be undefined
void message.bytes
if (message !== undefined) same<readonly OwnedFd[] | OwnedFd[], typeof message.fds | readonly OwnedFd[]>(true)
// @ts-expect-error: the reader chooses the size
receiveMessage(theirs.fd)

const { sent, error } = new SendBatch(64, 16).send(ours.fd, [{ bytes: Buffer.alloc(16), fd: theirs.fd }])
same<number, typeof sent>(true)
same<NativeError | undefined, typeof error>(true)
const received = new ReceiveBatch(64, 16).receive(theirs.fd, 64)
same<boolean, typeof received.ended>(true)
// @ts-expect-error: the size of a message is required
void new SendBatch(64)

const listener = listenTcp({ host: '::', port: 0 })
same<OwnedFd, typeof listener>(true)
// @ts-expect-error: a port is a number
listenTcp({ host: '::', port: '80' })
const client = acceptOne(listener.fd)
same<AcceptedConnection | undefined, typeof client>(true)

const poller = new Poller()
const watch = poller.add(listener.fd, EPOLLIN, (events) => same<number, typeof events>(true))
watch.remove()
// @ts-expect-error: a listener is required
poller.add(listener.fd, EPOLLIN)

const [a] = Endpoint.pair()
same<Promise<OwnedFd>, ReturnType<typeof a.recvFd>>(true)
same<OwnedFd, ReturnType<typeof a.recvFdNonblock>>(true)

const { pid, uid, gid } = peerCredentials(ours.fd)
same<[number, number, number], [typeof pid, typeof uid, typeof gid]>(true)

const failure: unknown = undefined
if (failure instanceof BatonNativeError) same<BatonNativeErrorCode, typeof failure.code>(true)
if (failure instanceof NativeError) same<string, typeof failure.syscall>(true)
