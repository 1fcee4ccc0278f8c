import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const batonCommand = fileURLToPath(new URL('../../packages/broker/bin/baton.js', import.meta.url))

/**
 * The time `baton start` takes on this machine now until it accepts connections: the unit of every limit.
 *
 * @param {string} folder must not exist yet
 * @param {NodeJS.ProcessEnv} env
 * @returns {Promise<number>} milliseconds
 */
export async function timeOneStart(folder, env) {
  mkdirSync(folder)
  const config = join(folder, 'baton.json')
  writeFileSync(
    config,
    JSON.stringify({
      runtimeDir: join(folder, 'run'),
      admin: { listen: '127.0.0.1:0' },
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
      services: { web: {} },
    }),
  )
  const begun = performance.now()
  const broker = spawn(process.execPath, [batonCommand, 'start', '--config', config], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = once(broker, 'close')
  let took
  for await (const line of createInterface({ input: broker.stdout })) {
    if (took !== undefined || !line.includes('"accepting connections"')) continue
    took = performance.now() - begun
    broker.kill('SIGTERM')
  }
  await ended
  if (took === undefined) throw new Error('`baton start` ended before it accepted connections')
  return took
}
