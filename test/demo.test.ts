import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { type IncomingMessage, request as httpRequest } from 'node:http'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { Program, root, temporaryFolder } from './support/process.ts'
import { LIMIT } from './support/limits.ts'
import { exists, signal } from './support/signal.ts'

interface Demo {
  program: Program
  url: string
  admin: string
  pids: number[]
  temporary: string
}

async function startDemo(t: Test): Promise<Demo> {
  const temporary = temporaryFolder(t)
  const program = new Program(t, process.execPath, [join(root, 'examples/dist/demo.js')], {
    env: { TMPDIR: temporary },
  })
  await program.line((line) => line.startsWith('Ctrl-C'), 'what to try')
  const printed = program.lines.join('\n')
  const pids = /\(pids (\d+) and (\d+)\)/.exec(printed)?.slice(1).map(Number) ?? []
  const url = /^ +(http:\S+)$/m.exec(printed)?.[1] as string
  const admin = /curl (http:\S+)\/metrics/.exec(printed)?.[1] as string
  return { program, url, admin, pids, temporary }
}

/** The pid that answered, over a connection of its own. */
async function answeredBy(url: string): Promise<number> {
  const request = httpRequest(url, { agent: false })
  request.end()
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  return Number(/process (\d+)/.exec(await text(response))?.[1])
}

/** Somebody else has the port, or this test does: either way it is not free. */
async function occupy(t: Test, port: number): Promise<void> {
  const server = createServer()
  server.listen(port, '127.0.0.1')
  await Promise.race([once(server, 'listening'), new Promise((resolve) => server.once('error', resolve))])
  t.teardown(() => void server.close())
}

t.setTimeout(LIMIT)

void t.test(
  'the demo survives the SIGKILL of a backend, replaces it, and leaves nothing behind',
  { timeout: LIMIT },
  async (t) => {
    await occupy(t, 8080)
    await occupy(t, 9180)
    const { program, url, admin, pids, temporary } = await startDemo(t)
    t.not(new URL(url).port, '8080', 'a taken port is not fought for')
    t.not(new URL(admin).port, '9180')
    const first = new Set([await answeredBy(url), await answeredBy(url)])
    t.same(first, new Set(pids), 'the two backends take turns')

    const [dead, other] = pids as [number, number]
    signal(dead, 'SIGKILL')
    const answers: number[] = []
    for (let i = 0; i < 20; i++) answers.push(await answeredBy(url))
    t.ok(
      answers.every((pid) => pid !== dead && !Number.isNaN(pid)),
      'every request has an answer',
    )
    t.ok(answers.includes(other))

    const line = await program.line((each) => each.includes('has taken its place'), 'the replacement')
    const replacement = Number(/Backend (\d+)/.exec(line)?.[1])
    t.same(new Set([await answeredBy(url), await answeredBy(url)]), new Set([other, replacement]))
    t.ok(program.lines.some((each) => each.startsWith(`Backend ${dead} ended (SIGKILL)`)))
    t.match(
      await (await fetch(`${admin}/metrics`)).text(),
      /^baton_connections_total\{service="web",outcome="handed_off"\} \d+$/m,
    )

    const status = (await (await fetch(`${admin}/api/v1/status`)).json()) as { broker: { pid: number } }
    program.kill('SIGINT')
    // Terminals and npm may send it twice.
    program.kill('SIGINT')
    t.same(await program.exited, { code: 0, signal: null })
    t.same([status.broker.pid, other, replacement].filter(exists), [], 'no process is left')
    t.same(readdirSync(temporary), [], 'nor a file')
  },
)
