// Reads TAP, and prints each test that failed, with its details, below the names of the tests that it is part of.
import { createInterface } from 'node:readline'

/** Details may include whole logs. */
const MAX_LINES = 80

/** The tests around the current line, from the outside, and how many failures were printed before each. */
const around = []
/** Indent of the last failure, until its details end. */
let indentOfFailure
let lines = 0
let count = 0

for await (const line of createInterface({ input: process.stdin })) {
  const indent = line.length - line.trimStart().length
  if (indentOfFailure !== undefined && (indent > indentOfFailure || line === '')) {
    lines += 1
    if (lines <= MAX_LINES) console.log(line.slice(indentOfFailure))
    continue
  }
  indentOfFailure = undefined
  const depth = indent / 4
  const subtest = /^ *# Subtest: (.*)/.exec(line)
  if (subtest !== null) around.splice(depth, Number.POSITIVE_INFINITY, { name: subtest[1], before: count })
  if (!/^ *(not )?ok /.test(line)) continue
  const own = around.splice(depth).at(0)
  // The cause was printed: a failure within this test.
  if (/^ *ok /.test(line) || (own !== undefined && own.before < count)) continue
  console.log(`\n${around.map(({ name }) => name).join(' > ')}\n${line.trim()}`)
  indentOfFailure = indent
  lines = 0
  count += 1
}
if (count === 0) console.log('no test failed: the runner did')
