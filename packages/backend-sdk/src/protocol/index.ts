/** The wire protocol, used by broker and backend: encoding and decoding of frames (no I/O), and the connection that carries them. */
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
export { RELAY_SOCKET_PREFIX } from '../relay/relay-endpoint.ts'
/** The control connection of both halves, including the rules for its end. */
export { ControlConnection, type ControlEnd, type ControlHandlers } from '../control/control-connection.ts'
export { type ControlSocket, type ControlStream, openControlStream } from '../control/control-stream.ts'
/** The clock of its deadlines. */
export { type Clock, systemClock, type Timer } from '../clock.ts'
export {
  decodeProxyHeader,
  encodeProxyHeader,
  type ProxyAddresses,
  type ProxyHeader,
} from './proxy-header.ts'
