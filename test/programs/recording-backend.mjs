// A backend that records each connection it adopts as `PID PORT TIME` (milliseconds of CLOCK_MONOTONIC) in the file
// ADOPTIONS, immediately and with write(2), so that a later SIGKILL cannot lose it. Answers with its pid. Lines on
// stdin: `register`, and `busy MS`, which blocks the event loop. It does not outlive its stdin.
import { openSync, writeSync } from 'node:fs'
import http from 'node:http'
import { createInterface } from 'node:readline'
import { createBackend } from '@baton/backend-sdk'

const now = () => Number(process.hrtime.bigint()) / 1e6
const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))

const adoptions = openSync(process.env.ADOPTIONS, 'a')
const server = http.createServer((_request, response) => response.end(`${process.pid}\n`))
if (process.env.KEEP_ALIVE !== undefined) server.keepAliveTimeout = Number(process.env.KEEP_ALIVE)
const backend = createBackend({ logger: false })
backend.attach(server)
backend.on('adopt', ({ remotePort }) => writeSync(adoptions, `${process.pid} ${remotePort} ${now()}\n`))

const commands = {
  async register() {
    await backend.ready()
    say('registered')
  },
  async busy(milliseconds) {
    const from = now()
    say('busy', { from })
    while (now() < from + milliseconds);
    say('idle', { until: now() })
  },
}

const input = createInterface({ input: process.stdin })
input.on('line', (line) => {
  const [command, argument] = line.split(' ')
  void commands[command](Number(argument))
})
input.on('close', () => process.exit())
say('ready')
