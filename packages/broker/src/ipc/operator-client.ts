import { connect } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import type { MasterStatus } from '../api/master-status.ts'
import { errnoOf } from '../config/error.ts'
import { AnswerReader, type CommandResult } from './operator-protocol.ts'

/** The master cannot be reached, or closed the connection without answering. The message is complete. */
export class NoAnswerError extends Error {
  override readonly name = 'NoAnswerError'
  readonly code = 'BATON_ERR_NO_BROKER'
}

/**
 * Sends a command to the running broker's master, on `<runtimeDir>/master.sock`, and waits for the answer without a timeout.
 *
 * @param progress gets each line before the answer
 * @throws NoAnswerError when the master cannot be reached, or closes the connection without answering
 */
export async function askMaster(
  runtimeDir: string,
  command: string,
  progress: (line: string) => void = () => {},
): Promise<CommandResult> {
  const path = join(runtimeDir, 'master.sock')
  const reader = new AnswerReader(progress)
  let rest = ''
  try {
    const socket = connect(path)
    socket.write(`${command}\n`)
    for await (const chunk of socket.setEncoding('utf8')) {
      const lines = (rest + String(chunk)).split('\n')
      rest = lines.pop() ?? ''
      for (const line of lines) reader.push(line)
    }
  } catch (error) {
    const errno = errnoOf(error)
    // A master that exits on `stop` may reset the connection after its answer.
    if (reader.answer === undefined) {
      if (errno === 'EACCES') throw new NoAnswerError(`permission denied: ${path} (EACCES)`, { cause: error })
      const why = errno ?? String(error)
      throw new NoAnswerError(`cannot reach the broker at ${path}: ${why}; is it running?`, { cause: error })
    }
  }
  if (reader.answer === undefined)
    throw new NoAnswerError(`the broker at ${path} closed the connection without answering; see its log`)
  return reader.answer
}

/** Undefined if there is no master (an app may have embedded the broker), or this user has no access to it. */
export async function masterStatus(runtimeDir: string): Promise<MasterStatus | undefined> {
  try {
    const socket = connect(join(runtimeDir, 'master.sock'))
    socket.write('status\n')
    return JSON.parse(await text(socket)) as MasterStatus
  } catch {
    return undefined
  }
}
