/** What broker and backend share: bytes to frames and back (no I/O), and the connection that carries them. */
export { encodeBatch, encodeFrame } from './encoder.ts'
export { FrameDecoder } from './decoder.ts'
export { FrameOrder } from './order.ts'
export {
  FrameEncodeError,
  type FrameEncodeErrorCode,
  InvalidUlidError,
  ProtocolError,
  ProxyHeaderError,
  type ProtocolErrorCode,
} from './errors.ts'
export { sealToken } from './secrecy.ts'
export { isUlid, ulidFromBytes, ulidTime, ulidToBytes } from './ulid.ts'
export * from './frames.ts'
/** The connection on which both halves speak it, with the rules of its end. */
export { RELAY_SOCKET_PREFIX } from '../relay/relay-endpoint.ts'
export { ControlConnection, type ControlEnd, type ControlHandlers } from '../control/control-connection.ts'
export { type ControlSocket, type ControlStream, openControlStream } from '../control/control-stream.ts'
/** The time that its deadlines are in. */
export { type Clock, systemClock, type Timer } from '../clock.ts'
/** Lengths of time as people write them, the same in the broker's configuration and in a backend's options. */
export { DURATION_UNITS, parseDuration } from '../duration.ts'
export {
  decodeProxyHeader,
  encodeProxyHeader,
  type ProxyAddresses,
  type ProxyHeader,
} from './proxy-header.ts'
