// The types of `@baton/native-sendmsg` as a program sees them.
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

// Who owns a descriptor is in its type: an argument is borrowed, a result is owned.
const [ours, theirs] = socketpair('seqpacket')
same<OwnedFd, typeof ours>(true)
same<BorrowedFd, typeof ours.fd>(true)
sendMessage(ours.fd, { bytes: Buffer.alloc(16), fds: [theirs.fd] })
// @ts-expect-error: the number is lent, not its owner
sendMessage(ours, { bytes: Buffer.alloc(16), fds: [] })
// @ts-expect-error: only kinds of Unix sockets
socketpair('raw')
// @ts-expect-error: closing is the owner's, by its method
ours.fd = -1

// A queue with nothing in it is an answer, and has to be asked for.
const message = receiveMessage(theirs.fd, { size: 64, maxFds: 1 })
// @ts-expect-error: it may be undefined
void message.bytes
if (message !== undefined) same<readonly OwnedFd[] | OwnedFd[], typeof message.fds | readonly OwnedFd[]>(true)
// @ts-expect-error: how much to read is said by who reads
receiveMessage(theirs.fd)

const { sent, error } = new SendBatch(64, 16).send(ours.fd, [{ bytes: Buffer.alloc(16), fd: theirs.fd }])
same<number, typeof sent>(true)
same<NativeError | undefined, typeof error>(true)
const received = new ReceiveBatch(64, 16).receive(theirs.fd, 64)
same<boolean, typeof received.ended>(true)
// @ts-expect-error: room for a message has a size
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
// @ts-expect-error: somebody has to listen
poller.add(listener.fd, EPOLLIN)

const [a] = Endpoint.pair()
same<Promise<OwnedFd>, ReturnType<typeof a.recvFd>>(true)
same<OwnedFd, ReturnType<typeof a.recvFdNonblock>>(true)

const { pid, uid, gid } = peerCredentials(ours.fd)
same<[number, number, number], [typeof pid, typeof uid, typeof gid]>(true)

const failure: unknown = undefined
if (failure instanceof BatonNativeError) same<BatonNativeErrorCode, typeof failure.code>(true)
if (failure instanceof NativeError) same<string, typeof failure.syscall>(true)
