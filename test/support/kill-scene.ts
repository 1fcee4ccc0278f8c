import { join } from 'node:path'
import type { Test } from 'tap'
import { Program, root } from './process.ts'
import type { Service } from './service.ts'

export const programPath = (name: string) => join(root, 'test/programs', name)

/** The environment of a `recording-backend.mjs`. */
export function recording({ broker, name }: Service): NodeJS.ProcessEnv {
  return {
    BATON_SOCKET: broker.control,
    BATON_SERVICE: name,
    ADOPTIONS: join(broker.folder, 'adoptions'),
  }
}

/** `test/programs/kill-run.mjs`: kills `kills` backends under load and judges each client. The broker must be at rest. */
export async function killBackends(t: Test, service: Service, kills: number): Promise<void> {
  const { broker, name, port } = service
  const seed = Math.floor(Math.random() * 2 ** 31)
  const args = `--kills ${kills} --seed ${seed} --port ${port} --admin ${broker.admin} --service ${name} --rate 50`
  const run = new Program(t, process.execPath, [programPath('kill-run.mjs'), ...args.split(' ')], {
    env: recording(service),
  })
  const { msg, violations, ...found } = await run.message('done')
  t.comment(`${String(msg)}, seed ${seed}: ${JSON.stringify(found)}`)
  t.same(violations, [])
  t.equal(found['kills'], kills)
  t.ok(Number(found['answered']) > 4 * kills, 'there was load')
  t.equal((await service.state()).unaccounted, 0)
}
