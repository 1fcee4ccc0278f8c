import { join } from 'node:path'
import t from 'tap'
import { LIMIT } from '../support/limits.ts'
import { Program, root } from '../support/process.ts'

// The short form of `npm run bench -- outlive`: ten rolling deploys of a chat and an API under traffic, every message counted by number in
// both directions. It exits with 1 if a client had to connect again, or a message was lost, doubled, reordered or changed.

void t.test('connections outlive ten deploys, and no message is lost', { timeout: LIMIT }, async (t) => {
  const run = new Program(t, process.execPath, [join(root, 'bench/outlive/outlive.mjs'), '--quick'], {
    group: true,
  })
  t.match(await run.exited, { code: 0 }, run.lines.join('\n'))
  t.ok(run.lines.includes('no rule was broken'))
  const [, chat, api] =
    /^moves that clients have noticed +(\d+) +(\d+)$/m.exec(run.lines.join('\n'))?.map(Number) ?? []
  t.ok(Number(chat) >= 500, `${chat} moves of WebSockets`)
  t.ok(Number(api) >= 450, `${api} moves of HTTP connections`)
})
