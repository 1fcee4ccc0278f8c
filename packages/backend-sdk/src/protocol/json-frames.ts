import { FrameEncodeError, ProtocolError } from './errors.ts'
import { FrameType, type JsonFrame } from './frames.ts'
import { PAYLOAD_OFFSET, startFrame } from './framing.ts'
import { takeMembers } from './json-members.ts'
import { sealHello } from './secrecy.ts'

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
}

// RFC 8259 section 8.1 lets a parser refuse a byte order mark, and ignoreBOM keeps it for JSON.parse to refuse.
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** @throws {FrameEncodeError} for a member of another type than the decoder takes, or a frame over its limit. */
export function encodeJsonFrame(frame: JsonFrame): Buffer {
  const { type: _, ...members } = takeMembers(
    frame.type,
    frame,
    (message) =>
      new FrameEncodeError('BATON_ERR_FRAME_NOT_ENCODABLE', `${frame.type.toUpperCase()}: ${message}`),
  )
  const text = JSON.stringify(members)
  const out = startFrame(JSON_FRAME_CODES[frame.type], Buffer.byteLength(text))
  out.write(text, PAYLOAD_OFFSET)
  return out
}

/** @throws {ProtocolError} `BATON_ERR_FRAME_MALFORMED`, naming the member and no value. */
export function decodeJsonPayload(type: JsonFrame['type'], payload: Buffer): JsonFrame {
  const fail = (message: string) =>
    new ProtocolError('BATON_ERR_FRAME_MALFORMED', `${type.toUpperCase()}: ${message}`)
  // The table that checks the members is typed by the frame's interface.
  const frame = takeMembers(type, parse(payload, fail), fail) as unknown as JsonFrame
  return frame.type === 'hello' ? sealHello(frame) : frame
}

function parse(payload: Buffer, fail: (message: string) => Error): unknown {
  try {
    return JSON.parse(utf8.decode(payload))
  } catch {
    // V8's own message quotes the text around the fault, and that may be the registration secret.
    throw fail('payload is not UTF-8 JSON')
  }
}
