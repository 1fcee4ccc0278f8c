import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { modelRules } from './support/model-rules.ts'
import { root } from './support/process.ts'

// One of them had moved to another file, and its README still named the former one.

void t.test('the code names each rule of the model where it implements it', (test) => {
  test.ok(modelRules().length > 0)
  for (const { name, files } of modelRules()) {
    test.ok(files.length > 0, `${name} is kept somewhere`)
    for (const file of files) {
      const source = readFileSync(join(root, file), 'utf8')
      test.ok(new RegExp(`Rule: .*\\b${name}\\b`).test(source), `${name} is named in ${file}`)
    }
  }
  test.end()
})
