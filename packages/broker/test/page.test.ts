import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import t from 'tap'

// The parts of the page that need no browser. test/slow/page.test.ts uses one.

const folder = join(import.meta.dirname, '../page')

interface Parser {
  push(text: string): { event: string; data: string }[]
}

void t.test('a stream of events is the same, wherever it is cut', async (t) => {
  const module = (await import(join(folder, 'event-parser.js'))) as { EventParser: new () => Parser }
  const stream =
    ': keep-alive\n\nid: 1\nevent: status\ndata: {"a":\ndata: 1}\n\n' +
    'event:change\r\ndata: a: b\r\n\r\nevent: nothing\n\ndata\n\nretry: 5\nunknown: x\ndata: é🜁\r\revent: status\ndata: not whole'
  const wanted = [
    { event: 'status', data: '{"a":\n1}' },
    { event: 'change', data: 'a: b' },
    { event: 'message', data: '' },
    { event: 'message', data: 'é🜁' },
  ]
  t.same(new module.EventParser().push(stream), wanted)
  fc.assert(
    fc.property(fc.array(fc.nat(stream.length)), (cuts) => {
      const parser = new module.EventParser()
      const places = [0, ...cuts.toSorted((a, b) => a - b), stream.length]
      const events = places.flatMap((end, index) => parser.push(stream.slice(places[index - 1] ?? 0, end)))
      return JSON.stringify(events) === JSON.stringify(wanted)
    }),
  )
})

void t.test('the page loads nothing but its own files', async (t) => {
  const files = readdirSync(folder)
  for (const file of files.filter((name) => /\.(?:js|css|html|svg)$/.test(name))) {
    const text = readFileSync(join(folder, file), 'utf8')
    // A namespace is a name, and is not loaded.
    const addresses = text
      .replaceAll('http://www.w3.org/2000/svg', '')
      .match(/\b(?:https?:)?\/\/[\w.-]+\.\w+/g)
    t.same(addresses ?? [], [], `${file} names no other host`)
    for (const [, from = ''] of text.matchAll(/(?:from|import\() ?'\.\/([^']+\.js)'/g))
      t.ok(files.includes(from), `${file}: ${from}`)
    for (const [, named = ''] of text.matchAll(/(?:src|href)="page\/([^"]+)"/g))
      t.ok(files.includes(named), `${file}: ${named}`)
  }
  const { files: shipped } = JSON.parse(readFileSync(join(folder, '../package.json'), 'utf8')) as {
    files: string[]
  }
  for (const kind of ['css', 'html', 'js', 'svg']) t.ok(shipped.includes(`page/*.${kind}`), kind)
})
