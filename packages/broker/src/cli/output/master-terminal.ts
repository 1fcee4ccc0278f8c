import { exitAtOnce } from '@baton/native-sendmsg'
import { finishOutput, standardError, standardOutput } from '../../log/standard.ts'
import type { Terminal } from './terminal.ts'

/** For a command that becomes a master: its output goes through the log's sinks, so that a failed write cannot end the master. */
export const masterTerminal: Terminal = {
  out: (line) => standardOutput().write(`${line}\n`),
  err: (line) => standardError().write(`${line}\n`),
}

/** Afterwards the process exits by itself; immediately if a thread is stuck in a write. */
export async function endOutput(code: number): Promise<void> {
  if (!(await finishOutput())) exitAtOnce(code)
}
