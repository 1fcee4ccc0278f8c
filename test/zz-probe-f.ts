import t from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker } from './support/broker.ts'
import { startLoad } from './support/load.ts'
import { openDescriptors, residentBytes } from './support/proc.ts'
import { execSync } from 'node:child_process'
t.test('x', { timeout: 200000 }, async (t) => {
  const env = process.env.BE_OPT ? { NODE_OPTIONS: process.env.BE_OPT } : {}
  const broker = await startBroker(t, { config: { services: { web: { balance: 'round-robin' } } }, env })
  const b = [await startBackend(t, broker, 'http-backend.mjs', { env }), await startBackend(t, broker, 'http-backend.mjs', { env })]
  await broker.backends(2)
  const ps = [broker.program.pid, ...b.map((x) => x.pid)]
  for (let i = 0; i < 5; i++) {
    const r = await startLoad(t, broker, { total: 40000, concurrency: 256 })
    await broker.until(({ services }) => services[0].backends.every(({ load }) => load === 0), 'rest')
    console.error(ps.map(openDescriptors), ps.map((p) => (residentBytes(p) / 1048576).toFixed(1)), r.seconds)
    console.error(execSync(`ss -tnp 2>/dev/null | grep 'pid=${ps[0]},' || true`).toString())
  }
})
