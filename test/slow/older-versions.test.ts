import { copyFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { buildOld, history, OLD } from '../../scripts/old-build.mjs'
import { batonCommand, type Broker, startBroker, unaccounted } from '../support/broker.ts'
import { Client } from '../support/client.ts'
import { LIMIT } from '../support/limits.ts'
import { onlyWorker } from '../support/operator.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'
import { signal } from '../support/signal.ts'
import { visit } from '../support/visit.ts'

// Broker and SDK are upgraded separately: each works with the packages of the last commit that handed nothing back, and does then what those did.

const APP = 'http-backend.mjs'

type Age = 'new' | 'old'

/** The packages of that commit, and an app that uses them. */
async function build(t: Test, archive: Buffer): Promise<string> {
  const folder = temporaryFolder(t)
  await buildOld(archive, folder)
  copyFileSync(join(root, 'test/programs', APP), join(folder, APP))
  return folder
}

const archive = history()
const skip = archive === undefined && `the history of this clone does not go back to ${OLD}`

void t.test('packages of different versions', { timeout: 4 * LIMIT, skip }, async (t) => {
  const old = await build(t, archive ?? Buffer.alloc(0))

  const startBackend = async (t: Test, broker: Broker, age: Age) => {
    const file = age === 'old' ? join(old, APP) : join(root, 'test/programs', APP)
    const env = { BATON_SOCKET: broker.control, BATON_SERVICE: 'web' }
    const backend = new Program(t, process.execPath, [file], { env })
    await backend.message('ready')
    return backend
  }

  /** Each drains while the next one serves, with one connection idle, and a request in progress on another. */
  const deploys = async (t: Test, broker: Broker, ages: readonly Age[], movedBy: readonly Age[]) => {
    const [first = 'new', ...others] = ages
    let giver = await startBackend(t, broker, first)
    let age = first
    let moved = 0
    for (const next of others) {
      const idle = await visit(t, broker)
      t.equal((await idle.answer()).headers['x-pid'], String(giver.pid))
      const busy = await visit(t, broker, '/wait')
      await giver.message('waiting')
      const successor = await startBackend(t, broker, next)
      await broker.backends(2)
      giver.kill('SIGTERM')
      await giver.message('draining')
      const beside = await visit(t, broker)
      t.equal((await beside.answer()).headers['x-pid'], String(successor.pid), 'nothing new is offered to it')
      giver.say('answer')
      const { status, body, headers } = await busy.answer()
      t.match(
        { status, body },
        { status: 200, body: `waited ${giver.pid}` },
        `${age} to ${next}: in progress`,
      )
      const moves = movedBy.includes(age)
      t.equal(headers['connection'] === 'close', !moves, moves ? 'stays open' : 'announces its end')
      t.match(await giver.exited, { code: 0, signal: null })
      for (const client of [idle, busy]) {
        if (!moves) {
          t.equal(await client.ended, 'end', 'as it was then')
          continue
        }
        moved += 1
        client.request()
        t.equal((await client.answer()).headers['x-pid'], String(successor.pid), 'the connection has moved')
      }
      for (const client of [idle, busy, beside]) client.socket.destroy()
      giver = successor
      age = next
    }
    giver.kill('SIGKILL')
    await giver.exited
    const status = await broker.until(
      ({ services }) =>
        services.every(({ backends, inFlight, held }) => backends.length + inFlight + held === 0),
      'at rest',
    )
    t.match(status.services[0]?.outcomes, { relayed: 0, rejected: 0, relinquished: 0 }, 'nothing is lost')
    t.notOk(broker.program.lines.some((line) => line.includes('broke the protocol')))
    return { moved, status }
  }

  await t.test('a new broker hands on what new backends hand back, also to old ones', async (t) => {
    const broker = await startBroker(t, { command: batonCommand })
    const { moved, status } = await deploys(t, broker, ['old', 'new', 'old', 'new', 'new'], ['new'])
    t.equal(moved, 4)
    t.equal(unaccounted(status), 0)
  })

  await t.test('an old broker: everything is as it was', async (t) => {
    const broker = await startBroker(t, { command: join(old, 'packages/broker/bin/baton.js') })
    const { moved } = await deploys(t, broker, ['old', 'new', 'old', 'new', 'new'], [])
    t.equal(moved, 0)

    await t.test('a new backend whose worker dies in its drain is offered nothing afterwards', async (t) => {
      const backend = await startBackend(t, broker, 'new')
      const client = await visit(t, broker, '/wait')
      await backend.message('waiting')
      backend.kill('SIGTERM')
      await backend.message('draining')
      signal(await onlyWorker(t, broker), 'SIGKILL')
      await broker.until(
        ({ services }) =>
          services[0]?.backends.some(({ pid, state }) => pid === backend.pid && state === 'draining') ===
          true,
        'it registers and drains',
      )
      const waits = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
      waits.request()
      backend.say('answer')
      t.equal((await client.answer()).body, `waited ${backend.pid}`)
      t.match(await backend.exited, { code: 0, signal: null })
      const next = await startBackend(t, broker, 'old')
      t.equal((await waits.answer()).headers['x-pid'], String(next.pid))
      waits.socket.destroy()
    })
  })
})
