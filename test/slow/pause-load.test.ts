import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { startBroker, unaccounted } from '../support/broker.ts'
import { batonHere } from '../support/command.ts'
import { freePort } from '../support/free-port.ts'
import { LIMIT } from '../support/limits.ts'
import { Program, root, temporaryFolder } from '../support/process.ts'
import { PATIENT } from '../support/service.ts'

const RATE = 500

void t.test('a pause of 10 s under 500 connections a second', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, {
    config: { admin: { listen: `127.0.0.1:${await freePort()}` }, services: { web: PATIENT } },
  })
  const adoptions = join(temporaryFolder(t), 'adoptions')
  const backend = new Program(t, process.execPath, [join(root, 'test/programs/recording-backend.mjs')], {
    env: { BATON_SOCKET: broker.control, BATON_SERVICE: 'web', ADOPTIONS: adoptions },
  })
  backend.say('register')
  await backend.message('registered')
  const args = ['--port', String(broker.port()), '--rate', String(RATE)]
  const clients = new Program(t, process.execPath, [join(root, 'test/programs/arrivals.mjs'), ...args])
  await clients.message('arriving')
  await new Promise((resolve) => setTimeout(resolve, 1000))

  const paused = await batonHere('pause', 'web', '--for', '10s', '--config', broker.configFile)
  t.equal(paused.code, 0)
  let most = 0
  await broker.until(({ services: [web] }) => {
    const { held, paused: state } = web as unknown as { held: number; paused: object | null }
    most = Math.max(most, held)
    return state === null
  }, 'the pause is over')
  clients.say('stop')
  const { results } = (await clients.message('done')) as {
    results: [port: number, begun: number, milliseconds: number, result: number | string][]
  }
  t.comment(`${results.length} connections, at most ${most} held at a time`)
  const waited = results.filter(([, , milliseconds]) => milliseconds > 1000).length
  t.ok(waited > RATE * 5, `${waited} have waited for more than a second`)
  t.same(
    results.filter(([, , , result]) => result !== backend.pid),
    [],
    'each was served',
  )
  const ports = readFileSync(adoptions, 'utf8')
    .trim()
    .split('\n')
    .map((line) => Number(line.split(' ')[1]))
  const arrived = results.toSorted(([, one], [, other]) => one - other).map(([port]) => port)
  t.equal(ports.length, arrived.length)
  t.equal(
    ports.findIndex((port, index) => port !== arrived[index]),
    -1,
    'in the order of their arrival',
  )
  t.equal(unaccounted(await broker.status()), 0)
})
