import { connect } from 'node:net'
import { join } from 'node:path'
import { errnoOf } from '../config/index.ts'
import { CommandError } from '../exit-codes.ts'

/** What the master said at the end. */
export interface OperatorAnswer {
  readonly success: boolean
  /** The lines behind `--`. */
  readonly log: readonly string[]
}

/**
 * Asks the running broker's master, on `<runtimeDir>/master.sock`, and waits for as long as it takes.
 *
 * @param progress gets each line before the answer
 * @throws CommandError when nobody answers, or the connection ends without an answer
 */
export async function askMaster(
  runtimeDir: string,
  command: string,
  progress: (line: string) => void = () => {},
): Promise<OperatorAnswer> {
  const path = join(runtimeDir, 'master.sock')
  const log: string[] = []
  let success: boolean | undefined
  let rest = ''
  const hear = (line: string) => {
    if (success === undefined) {
      const answer = /^Success=([01])$/.exec(line)
      if (answer === null) progress(line)
      else success = answer[1] === '1'
    } else if (line !== '--' || log.length > 0) log.push(line)
  }
  try {
    const socket = connect(path)
    socket.write(`${command}\n`)
    for await (const chunk of socket.setEncoding('utf8')) {
      const lines = (rest + String(chunk)).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) hear(line)
    }
  } catch (error) {
    const errno = errnoOf(error)
    // The end of a master that was told to stop may look like that.
    if (success === undefined) {
      if (errno === 'EACCES') throw new CommandError(`this user may not connect to ${path}`, { cause: error })
      throw new CommandError(`nobody answers at ${path}: ${errno ?? String(error)}; is the broker running?`, {
        cause: error,
      })
    }
  }
  if (success === undefined)
    throw new CommandError(`the broker at ${path} ended without an answer; its log tells why`)
  return { success, log }
}
