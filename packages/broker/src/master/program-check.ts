import { spawn } from 'node:child_process'
import type { CommandLine } from './installed-program.ts'
import { STATE_VERSION, STATE_VERSION_VARIABLE } from './state-version.ts'

/** Loading the program takes some tenths of a second, and on a starved machine up to half a minute: in ms. */
const PATIENCE = 120_000

/**
 * Runs the program that a reload would execute, as `baton check`, in a child: whether it loads at all, likes the
 * configuration, and can read what this master would leave to it.
 *
 * @param signal ends the child
 * @returns what is wrong, or undefined
 */
export async function checkProgram(
  { node, args }: CommandLine,
  file: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  const child = spawn(node, [...args, 'check', '--config', file], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, [STATE_VERSION_VARIABLE]: String(STATE_VERSION) },
  })
  let printed = ''
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (printed += chunk.toString()))
  const kill = () => {
    child.kill('SIGKILL')
    // What it has started itself may hold the other ends.
    child.stdout.destroy()
    child.stderr.destroy()
  }
  const timeout = setTimeout(kill, PATIENCE)
  signal.addEventListener('abort', kill)
  const [code, endedBy] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) => {
    child.on('error', (error) => {
      printed += error.message
      resolve([1, null])
    })
    child.on('close', (...how) => resolve(how))
  })
  clearTimeout(timeout)
  signal.removeEventListener('abort', kill)
  if (code === 0) return undefined
  return `the new program does not load (${endedBy ?? `exit code ${code}`}): ${printed.trim()}`
}
