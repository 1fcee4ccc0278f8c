import { spawnSync } from 'node:child_process'
import { readdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { eventually } from '../support/eventually.ts'
import { read } from '../support/markdown.ts'
import { root } from '../support/process.ts'
import { Tour, TOURS } from '../support/tour.ts'
import { LIMIT } from '../support/limits.ts'

// The guides, followed to the letter, with this repository's `node_modules` instead of installed packages.

interface Guide {
  readonly page: string
  /** Further files of a reader's app, by the names used in the guide. */
  readonly files?: Readonly<Record<string, string>>
  /** A program that readers of this page have; required in CI. */
  readonly needs?: string
  /** Checks the output of the terminals. */
  readonly seen: (t: Test, tour: Tour) => void | Promise<void>
}

function isHere(program: string): boolean {
  return process.env['CI'] !== undefined || spawnSync(program, ['-v']).error === undefined
}

/** Output of an unmodified app, and of one with the SDK. */
const AS_IT_IS = /^(\d+) (?:::ffff:)?127\.0\.0\.1 \d+$/
const HELLO = /^Hello from process (\d+)\. You are 127\.0\.0\.1:\d+\.$/

/** First unmodified; then with the SDK, before and after a deploy. */
function servesBothWays(t: Test, tour: Tour): void {
  t.match(tour.lines('terminal-2')[0], AS_IT_IS)
  const looking = tour.lines('terminal-4')
  const [before, after, ...more] = looking.flatMap((line) => HELLO.exec(line)?.[1] ?? [])
  t.ok(before)
  t.ok(after)
  t.not(after, before, 'another process answers after the deploy')
  t.same(more, [])
  t.ok(looking.includes('done web: 2 replaced'))
}

/** First unmodified; then with the SDK, scaled, deployed and stopped. */
function replacesAnother(greeting: string) {
  return (t: Test, tour: Tour): void => {
    t.match(tour.lines('terminal-2')[0], AS_IT_IS)
    const typed = tour.lines('terminal-4')
    t.ok(typed.some((line) => /^Hello from process \d+$/.test(line)))
    t.ok(
      typed.includes(
        'web: 3 instances (before: 2); in force until the configuration has another number than 2',
      ),
    )
    t.ok(typed.some((line) => /^done web: [23] replaced$/.test(line)))
    t.ok(
      typed.some((line) => line.startsWith(`${greeting} from process `)),
      typed.join('\n'),
    )
  }
}

const guides: readonly Guide[] = [
  {
    page: 'docs/tutorial/first-deploy.md',
    async seen(t, tour) {
      const looking = tour.lines('terminal-3')
      const [before, after] = looking.flatMap((line) => /^Hello from (\d+)$/.exec(line)?.[1] ?? [])
      t.ok(before)
      t.ok(after)
      t.not(after, before, 'the new process answers after the deploy')
      for (const [slot, pid] of [
        ['web-1', before],
        ['web-2', after],
      ])
        t.ok(
          looking.some((line) => new RegExp(`^web/${slot} +ready .*\\b${pid}\\b`).test(line)),
          `status shows ${slot}`,
        )
      t.ok(looking.includes('baton_connections_total{service="web",outcome="handed_off"} 1'))
      t.ok(looking.some((line) => line.startsWith('web/web-1: draining 1 backend')))
      t.ok(looking.includes('reloaded'))
      await tour.prompt('terminal-2')
      t.pass('the drained process has ended by itself')
    },
  },
  { page: 'docs/how-to/fastify.md', seen: servesBothWays },
  { page: 'docs/how-to/express.md', seen: servesBothWays },
  {
    page: 'docs/how-to/nestjs.md',
    files: { 'dist/main.js': 'test/apps/nest.mjs' },
    seen: servesBothWays,
  },
  {
    page: 'docs/how-to/socket-io.md',
    async seen(t, tour) {
      const client = tour.lines('terminal-4')
      const replies = () => client.flatMap((line) => /^process (\d+) received hello$/.exec(line)?.[1] ?? [])
      await eventually(
        () => replies().length >= 2,
        () => `another answer: ${client.join('\n')}`,
      )
      t.ok(
        client.includes('disconnected: transport close'),
        'it was sent away in such a way that it comes back',
      )
      t.equal(new Set(replies()).size, replies().length, 'to another process each time')
      t.ok(tour.lines('terminal-5').includes('done web: 2 replaced'))
    },
  },
  {
    page: 'docs/how-to/tls.md',
    seen(t, tour) {
      const answers = tour.lines('terminal-2')
      t.match(answers[0], /^HTTP\/2\.0 from process \d+\. You are (?:127\.0\.0\.1|::1):\d+\.$/)
      t.match(answers[1], /^HTTP\/1\.1 from process \d+\. You are (?:127\.0\.0\.1|::1):\d+\.$/)
      const handshakes = answers.flatMap((line) => /^(New|Reused),/.exec(line)?.[1] ?? [])
      t.same(handshakes, ['New', ...Array.from({ length: 5 }, () => 'Reused')])
    },
  },
  {
    page: 'docs/how-to/grpc.md',
    seen(t, tour) {
      const said = /^Hello Ada at (?:127\.0\.0\.1|\[?::1\]?):\d+, from process (\d+)\.$/
      const [before, after] = tour.lines('terminal-2').flatMap((line) => said.exec(line)?.[1] ?? [])
      t.ok(before)
      t.ok(after)
      t.not(after, before, 'another process answers after the deploy')
    },
  },
  {
    page: 'docs/how-to/python.md',
    files: Object.fromEntries(
      readdirSync(join(root, 'examples/python/baton_backend'))
        .filter((name) => name.endsWith('.py'))
        .map((name) => [`baton_backend/${name}`, `examples/python/baton_backend/${name}`]),
    ),
    needs: 'uvicorn',
    seen(t, tour) {
      const typed = tour.lines('terminal-2')
      const [first, second, after] = typed.flatMap((line) => HELLO.exec(line)?.[1] ?? [])
      t.ok(first)
      t.equal(second, first, 'one connection')
      t.ok(after)
      t.not(after, first, 'another process answers after the deploy')
      t.ok(typed.includes('done web: 2 replaced'))
    },
  },
  { page: 'docs/how-to/from-pm2.md', seen: replacesAnother('Hello from production') },
  { page: 'docs/how-to/from-cluster.md', seen: replacesAnother('Hello') },
  {
    page: 'docs/how-to/many-hosts.md',
    needs: 'haproxy',
    seen(t, tour) {
      const text = tour.lines('terminal-2').join('\n')
      const [, seen] = /^Hello from process \d+\. You are (\S+)\.$/m.exec(text) ?? []
      const [, own] = /^I am (\S+)\.$/m.exec(text) ?? []
      t.ok(own)
      t.equal(seen, own, 'behind a balancer, the app sees the client')
    },
  },
]

// Each page has its own timeout.
t.setTimeout(0)

for (const { page, files = {}, needs, seen } of guides) {
  const skip = needs !== undefined && !isHere(needs) && `${needs} is not installed`
  void t.test(page, { timeout: LIMIT, skip }, async (t) => {
    const tour = await Tour.begin(t)
    symlinkSync(join(root, 'node_modules'), join(tour.folder, 'node_modules'))
    tour.write('package.json', '{ "type": "module" }\n')
    for (const [name, file] of Object.entries(files)) tour.write(name, read(file))
    await tour.follow(page)
    await seen(t, tour)
  })
}

void t.test('every page with a tour is followed', async (t) => {
  t.same(['README.md', ...guides.map(({ page }) => page)].toSorted(), [...TOURS].toSorted())
})
