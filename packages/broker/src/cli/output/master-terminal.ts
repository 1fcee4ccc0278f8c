import { exitAtOnce } from '@baton/native-sendmsg'
import { finishOutput, standardError, standardOutput } from '../../log/standard.ts'
import type { Terminal } from './terminal.ts'

/** For a command that becomes a master: what it prints goes where its log goes, and no error of it ends the master. */
export const masterTerminal: Terminal = {
  out: (line) => standardOutput().write(`${line}\n`),
  err: (line) => standardError().write(`${line}\n`),
}

/** The process ends by itself behind this, or at once where a thread is stuck in a write. */
export async function endOutput(code: number): Promise<void> {
  if (!(await finishOutput())) exitAtOnce(code)
}
