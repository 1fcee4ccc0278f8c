import { FrameEncodeError, ProtocolError } from './errors.ts'
import { FrameType, type JsonFrame } from './frames.ts'
import { PAYLOAD_OFFSET, startFrame } from './framing.ts'
import { takeMembers } from './json-members.ts'
import { sealHello, sealTicketKeys } from './secrecy.ts'

const JSON_FRAME_CODES: Readonly<Record<JsonFrame['type'], number>> = {
  hello: FrameType.HELLO,
  welcome: FrameType.WELCOME,
  refused: FrameType.REFUSED,
  reconnect: FrameType.RECONNECT,
  drain: FrameType.DRAIN,
  drained: FrameType.DRAINED,
  heartbeat: FrameType.HEARTBEAT,
  stats: FrameType.STATS,
  rebalance: FrameType.REBALANCE,
  resumes: FrameType.RESUMES,
  ticket_keys: FrameType.TICKET_KEYS,
}

// ignoreBOM keeps a byte order mark in the text, so that JSON.parse refuses it, as RFC 8259 section 8.1 allows.
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** @throws {FrameEncodeError} for a member that the decoder would refuse, or a frame over its limit */
export function encodeJsonFrame(frame: JsonFrame): Buffer {
  const { type: _, ...members } = takeMembers(
    frame.type,
    frame,
    (message) =>
      new FrameEncodeError('BATON_ERR_FRAME_NOT_ENCODABLE', `${frame.type.toUpperCase()}: ${message}`),
  )
  // As from a backend that knows nothing of it.
  if (frame.type === 'hello' && frame.draining === null) delete members['draining']
  // Not granted: nothing of it is on the wire.
  if (frame.type === 'welcome' && frame.handBackWindow === null) {
    delete members['handBackWindow']
    delete members['parkAfter']
  }
  const text = JSON.stringify(members)
  const out = startFrame(JSON_FRAME_CODES[frame.type], Buffer.byteLength(text))
  out.write(text, PAYLOAD_OFFSET)
  return out
}

/** @throws {ProtocolError} `BATON_ERR_FRAME_MALFORMED`, which names the member but not its value */
export function decodeJsonPayload(type: JsonFrame['type'], payload: Buffer): JsonFrame {
  const fail = (message: string) =>
    new ProtocolError('BATON_ERR_FRAME_MALFORMED', `${type.toUpperCase()}: ${message}`)
  // Safe: the table that checks the members is typed by the frame's interface.
  const frame = takeMembers(type, parse(payload, fail), fail) as unknown as JsonFrame
  if (frame.type === 'hello') return sealHello(frame)
  return frame.type === 'ticket_keys' ? sealTicketKeys(frame) : frame
}

function parse(payload: Buffer, fail: (message: string) => Error): unknown {
  try {
    return JSON.parse(utf8.decode(payload))
  } catch {
    // Not V8's message, which quotes the text around the error: that could be the registration secret.
    throw fail('payload is not UTF-8 JSON')
  }
}
