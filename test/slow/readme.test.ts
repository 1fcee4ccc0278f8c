import { existsSync, readdirSync, readFileSync, symlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { root } from '../support/process.ts'
import { Tour, tourOf } from '../support/tour.ts'
import { LIMIT } from '../support/limits.ts'

const pages = [
  'README.md',
  'CONTRIBUTING.md',
  'examples/README.md',
  'packages/broker/README.md',
  'packages/backend-sdk/README.md',
]

t.setTimeout(LIMIT)

void t.test('the tour of the README is true', { timeout: LIMIT }, async (t) => {
  t.same(
    [...new Set(tourOf('README.md').map(({ target }) => target))],
    [
      'terminal-1',
      'server.js',
      'terminal-2',
      'baton.json',
      'app.js',
      'terminal-3',
      'terminal-4',
      'terminal-5',
      'terminal-6',
    ],
  )
  const tour = await Tour.begin(t)
  symlinkSync(root, join(tour.folder, 'baton'))
  await tour.follow('README.md', 'my-app')

  const greeted = tour.lines('terminal-2').filter((line) => /^Hello from \d+$/.test(line))
  t.equal(greeted.length, 2)
  // The page's app has the half second of the default to take a client; on a busy machine that may not do, and the other
  // process gets it.
  const inTime = !tour.lines('terminal-1').some((line) => line.includes('no ACK by the deadline'))
  if (inTime) t.not(greeted[0], greeted[1], 'under baton run, two processes of the app have answered')

  const looking = tour.lines('terminal-5')
  const [before, after] = looking.flatMap((line) => /^Hello from (\d+)$/.exec(line)?.[1] ?? [])
  t.ok(before)
  t.ok(after)
  t.not(after, before, 'the new process answers after the deploy')
  t.ok(
    looking.some((line) => new RegExp(`^web/web-1 +ready .*\\b${before}\\b`).test(line)),
    'status shows the app',
  )
  t.ok(
    looking.some((line) => new RegExp(`^web/web-2 +ready .*\\b${after}\\b`).test(line)),
    'and the new one',
  )
  t.ok(looking.includes('baton_connections_total{service="web",outcome="handed_off"} 1'))
  t.ok(looking.some((line) => line.startsWith('web/web-1: draining 1 backend')))
  t.ok(looking.includes('reloaded'))
  await tour.prompt('terminal-4')
  t.pass('the drained process has ended by itself')
})

void t.test('every link of the READMEs leads somewhere', async (t) => {
  for (const page of pages) {
    const links = [...readFileSync(join(root, page), 'utf8').matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)]
    t.ok(links.length > 0, page)
    for (const [, link = ''] of links) t.ok(existsSync(join(root, dirname(page), link)), `${page}: ${link}`)
  }
})

void t.test('the READMEs of the packages name every folder of src', async (t) => {
  for (const name of ['broker', 'backend-sdk']) {
    const page = readFileSync(join(root, 'packages', name, 'README.md'), 'utf8')
    const named = [...page.matchAll(/^\| `src\/(\w[\w-]*)\/` \|/gm)].map(([, folder]) => folder)
    const folders = readdirSync(join(root, 'packages', name, 'src'), { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
    t.same(new Set(named), new Set(folders), name)
  }
})
