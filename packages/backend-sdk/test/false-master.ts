import { createServer } from 'node:net'
import { join } from 'node:path'
import type { Test } from 'tap'
import { temporaryFolder } from '../../../test/support/process.ts'

/** The answer to a request; undefined cuts the session without an answer, `silence` leaves it waiting. */
export type Answer = (request: Readonly<Record<string, string>>) => string | undefined
export const silence = 'silence'

/** The master's answer: it listens on the requested port, on the IPv4 address. */
export const opened: Answer = ({ service, host, port }) => {
  const address = host === '::' ? '::' : '127.0.0.1'
  return `Success=1\n${JSON.stringify({ service, address, port: Number(port) })}\n`
}

/** A scripted master: receives requests on its operator socket, and sends the test's answers. It opens nothing. */
export class FalseMaster {
  readonly path: string
  readonly requests: string[] = []
  answer: Answer

  private constructor(path: string, answer: Answer) {
    this.path = path
    this.answer = answer
  }

  static async start(t: Test, answer: Answer = opened): Promise<FalseMaster> {
    const master = new FalseMaster(join(temporaryFolder(t), 'master.sock'), answer)
    const server = createServer((socket) => {
      t.teardown(() => socket.destroy())
      let line = ''
      socket.setEncoding('utf8').on('data', (chunk: string) => {
        line += chunk
        if (!line.endsWith('\n')) return
        master.requests.push(line.trimEnd())
        const [, ...words] = line.trimEnd().split(' ')
        const request = Object.fromEntries(words.map((word) => word.split(/=(.*)/s).slice(0, 2)))
        const said = master.answer(request as Record<string, string>)
        if (said !== silence) socket.end(said ?? '')
      })
      // An app may exit without closing its session.
      socket.on('error', () => {})
    })
    await new Promise<void>((resolve) => server.listen(master.path, resolve))
    t.teardown(() => server.close())
    return master
  }
}
