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

void t.test('the tour of the README works', { timeout: LIMIT }, async (t) => {
  t.same(
    [...new Set(tourOf('README.md').map(({ target }) => target))],
    ['terminal-1', 'server.js', 'terminal-2'],
  )
  const tour = await Tour.begin(t)
  symlinkSync(root, join(tour.folder, 'baton'))
  await tour.follow('README.md', 'my-app')

  const greeted = tour.lines('terminal-2').filter((line) => /^Hello from \d+$/.test(line))
  t.equal(greeted.length, 2)
  // The page's app has the default half second to take a client; on a busy machine that may be too short, and the other
  // process gets it.
  const inTime = !tour.lines('terminal-1').some((line) => line.includes('no ACK by the deadline'))
  if (inTime) t.not(greeted[0], greeted[1], 'under baton run, two processes of the app have answered')
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
