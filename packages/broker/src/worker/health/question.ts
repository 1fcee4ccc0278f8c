import { get } from 'node:http'
import type { Socket } from 'node:net'

/** A whole answer, or why there was none. */
export type Answer = { readonly status: number } | { readonly error: string }

/**
 * Asks `GET path` on a connection that is there already, and reads the answer to its end. `answered` is called at most once,
 * and not before this returns. The socket stays the caller's: whoever destroys it ends the question.
 */
export function ask(socket: Socket, path: string, answered: (answer: Answer) => void): void {
  // Until the request takes the socket over, a tick from now, nobody else listens.
  socket.on('error', () => {})
  let over = false
  const end = (answer: Answer) => {
    if (over) return
    over = true
    answered(answer)
  }
  const request = get({
    path,
    headers: { Host: 'localhost', 'User-Agent': 'baton-health-check' },
    createConnection: () => socket,
  })
  request.on('error', (error: NodeJS.ErrnoException) => end({ error: error.code ?? error.message }))
  request.on('response', (response) => {
    response.on('error', (error: NodeJS.ErrnoException) => end({ error: error.code ?? error.message }))
    response.on('end', () => end({ status: response.statusCode ?? 0 }))
    response.resume()
  })
  // A relay was dialled paused.
  socket.resume()
}
