import type { Socket } from 'node:net'
import type { ServerOptions, WebSocketServer } from 'ws'
import { field } from './http-heads.ts'
import { InflateWindow } from './inflate-window.ts'
import type { Replay } from './replay.ts'
import type { Upgrade } from './upgrade.ts'

export const DEFLATE = 'permessage-deflate'
/** Field of a recorded answer: the inflater's window, in Base64. */
export const WINDOW_FIELD = 'Baton-Inflate-Window'

/** The parts of a `WebSocketServer` that open a connection; of whichever copy of `ws` a library has. */
export type UpgradingServer = Pick<WebSocketServer, 'handleUpgrade' | 'options'>

/** Undefined if the client's messages do not refer to the ones before. */
export function windowOf({ answerHead }: Upgrade, replay: Replay | undefined): InflateWindow | undefined {
  const extensions = answerHead === undefined ? undefined : field(answerHead, 'Sec-WebSocket-Extensions')
  if (extensions === undefined || !extensions.includes(DEFLATE)) return undefined
  if (extensions.includes('client_no_context_takeover')) return undefined
  return new InflateWindow(replay && inflated(replay))
}

/** The last bytes that were inflated of a connection in the processes before. */
function inflated({ block }: Replay): Buffer | undefined {
  const value = field(block.answerHead, WINDOW_FIELD)
  return value === undefined || value === '' ? undefined : Buffer.from(value, 'base64')
}

/** An inflater's dictionary is an option of the server: it is set while that opens a connection that has one. */
export function inflateWithWindows(
  wss: UpgradingServer,
  replayOf: (socket: Socket) => Replay | undefined,
): void {
  const below = wss.handleUpgrade.bind(wss)
  wss.handleUpgrade = (request, socket, head, callback) => {
    const replay = replayOf(socket as Socket)
    const dictionary = replay && inflated(replay)
    const { options } = wss
    const { perMessageDeflate } = options
    if (dictionary === undefined || perMessageDeflate === undefined || perMessageDeflate === false)
      return below(request, socket, head, callback)
    const deflate = perMessageDeflate === true ? {} : perMessageDeflate
    const withDictionary: ServerOptions = {
      ...options,
      perMessageDeflate: { ...deflate, zlibInflateOptions: { ...deflate.zlibInflateOptions, dictionary } },
    }
    wss.options = withDictionary
    try {
      below(request, socket, head, callback)
    } finally {
      wss.options = options
    }
  }
}
