import { join } from 'node:path'
import type { Test } from 'tap'
import type { Broker } from './broker.ts'
import { Program, root } from './process.ts'

/**
 * A backend process from `test/programs`; resolves once it has registered. Each program then prints one JSON line
 * `{"msg":"ready","pid":...}`.
 */
export async function startBackend(
  t: Test,
  broker: Broker,
  name = 'http-backend.mjs',
  options: { service?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<Program> {
  const program = new Program(t, process.execPath, [join(root, 'test/programs', name)], {
    env: { BATON_SOCKET: broker.control, BATON_SERVICE: options.service ?? 'web', ...options.env },
  })
  await program.message('ready')
  return program
}
