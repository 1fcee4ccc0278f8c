export { acceptMany, acceptOne, type AcceptedBatch, type AcceptedConnection } from './accept.ts'
export { clearLinger, closeAll, closeAside, resetAll } from './close-all.ts'
export { clearReceiveMinimum } from './receive-minimum.ts'
export { sendDatagram } from './datagram.ts'
export {
  close,
  dup,
  dupOnto,
  isCloseOnExec,
  isNonblocking,
  OwnedFd,
  setCloseOnExec,
  setNonblocking,
  type BorrowedFd,
} from './descriptors.ts'
export { connectUnix, dialAndSend } from './dial.ts'
export { Endpoint } from './endpoint.ts'
export {
  BatonNativeError,
  errorMessages,
  NativeError,
  ShortSendError,
  UnexpectedEndError,
  UnsupportedPlatformError,
  type BatonNativeErrorCode,
  type NativeErrorContext,
} from './errors.ts'
export { executeInPlace, type ExecuteOptions } from './execute.ts'
export {
  isListening,
  isStream,
  localAddress,
  peerAddress,
  peerCredentials,
  poll,
  pollEach,
  POLLERR,
  POLLHUP,
  POLLIN,
  POLLNVAL,
  POLLOUT,
  POLLRDHUP,
  socketError,
  type PeerCredentials,
} from './inspect.ts'
export { supported } from './libc.ts'
export { listenTcp, listenUnix, type ListenTcpOptions, type ListenUnixOptions } from './listen.ts'
export { lockFile, lockFolder } from './lock-file.ts'
export { createMemoryFile } from './memory-file.ts'
export { receiveMessage, sendMessage, type IncomingMessage, type OutgoingMessage } from './message.ts'
export { monotonicTime } from './monotonic-time.ts'
export { createPipe } from './pipe.ts'
export { Poller, sharedPoller, type PollerOptions, type Readiness, type ReadinessListener } from './poller.ts'
export { exitAtOnce, type ForeignFd, openProcess, reap, sameOpenFile, type ProcessExit } from './processes.ts'
export { closeReachable, receivePlain } from './receive-plain.ts'
export { ReceiveBatch, type ReceiveBatchResult, type ReceivedMessage } from './receive-batch.ts'
export { descriptorsCanBeRefused, refuseDescriptors } from './refuse-descriptors.ts'
export { receiveExact, type ReceiveExactOptions } from './receive-exact.ts'
export { forgetKeeper } from './signal-keeper.ts'
export { blockSignals, ignoreSignal, unblockSignals, watchCaughtSignals } from './signals.ts'
export { SendBatch, type BatchItem, type SendBatchResult } from './send-batch.ts'
export { PACKED_ADDRESS, packAddress, type SocketAddress, unpackAddress } from './socket-address.ts'
export { CONNECTION_ENTRY, type ConnectionVisitor, SocketDiagnostics } from './socket-diagnostics.ts'
export { socketpair, type UnixSocketType } from './sockets.ts'
export { peek, readToEnd, recv, send } from './stream.ts'
export { MAX_PEEKS, type Peeked, peekMany } from './peek-many.ts'
export {
  EPOLLERR,
  EPOLLET,
  EPOLLEXCLUSIVE,
  EPOLLHUP,
  EPOLLIN,
  EPOLLONESHOT,
  EPOLLOUT,
  EPOLLRDHUP,
  type Watch,
  type WatchRequest,
} from './watch.ts'
